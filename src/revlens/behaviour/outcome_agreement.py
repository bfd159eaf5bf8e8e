"""How well a judge's outcomes agree with labels: confusion, precision, recall and Cohen's kappa."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from revlens.behaviour.outcome import OUTCOMES, Outcome
from revlens.errors import ProbeError
from revlens.statistics import Estimate, bootstrap_by_counts, wilson

_N = len(OUTCOMES)


@dataclass(frozen=True)
class OutcomeAgreement:
    """Outcomes by a judge against labels.

    Attributes:
        confusion: number of replies by label (row) and verdict (column), in the order of `OUTCOMES`.
        accuracy: share of replies on which both agree, its 95 % interval by a bootstrap over groups.
        kappa: Cohen's kappa (1 = agreement, 0 = as by chance), likewise; None where the judge or the labels
            say the same of every reply.
    """

    confusion: tuple[tuple[int, ...], ...]
    accuracy: Estimate
    kappa: Estimate | None

    def precision(self, outcome: Outcome) -> Estimate | None:
        """Of the replies with this verdict, the share with this label, with a Wilson interval over replies.

        None where there is no such reply.
        """
        return self._share(outcome, sum(row[OUTCOMES.index(outcome)] for row in self.confusion))

    def recall(self, outcome: Outcome) -> Estimate | None:
        """Of the replies with this label, the share with this verdict; see `precision`."""
        return self._share(outcome, sum(self.confusion[OUTCOMES.index(outcome)]))

    def _share(self, outcome: Outcome, n: int) -> Estimate | None:
        index = OUTCOMES.index(outcome)
        return wilson(self.confusion[index][index], n) if n else None


def outcome_agreement(
    verdicts: Sequence[Outcome], labels: Sequence[Outcome], groups: Sequence[Hashable], *, seed: int = 0
) -> OutcomeAgreement:
    """Compare one outcome per reply with one label per reply.

    Args:
        verdicts: by the judge.
        labels: to compare with.
        groups: what is resampled, such as the prompt of each reply: replies to one prompt are alike.
        seed: of the bootstrap.

    Raises:
        ProbeError: if they differ in number or are empty.
        ConfigError: if hardly any resample has two verdicts and two labels.
    """
    if not len(verdicts) == len(labels) == len(groups) or not verdicts:
        raise ProbeError(
            "Expected as many verdicts as labels and groups and at least one, "
            f"got {len(verdicts)}, {len(labels)} and {len(groups)}."
        )
    names = list(dict.fromkeys(groups))
    tables = np.zeros((len(names), _N, _N), dtype=int)
    index: Mapping[Hashable, int] = {name: i for i, name in enumerate(names)}
    for verdict, label, group in zip(verdicts, labels, groups, strict=True):
        tables[index[group], OUTCOMES.index(label), OUTCOMES.index(verdict)] += 1

    def of(counts: Int[ndarray, "resample group"]) -> Int[ndarray, "resample label verdict"]:
        return np.tensordot(counts, tables, axes=1)

    total = tables.sum(0)
    return OutcomeAgreement(
        tuple(map(tuple, total.tolist())),
        bootstrap_by_counts(lambda counts: _accuracies(of(counts)), len(names), seed=seed, label="accuracy"),
        bootstrap_by_counts(lambda counts: _kappas(of(counts)), len(names), seed=seed, label="kappa")
        if len(set(verdicts)) > 1 and len(set(labels)) > 1
        else None,
    )


def _accuracies(tables: Int[ndarray, "resample label verdict"]) -> Float[ndarray, " resample"]:
    return np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2))


def _kappas(tables: Int[ndarray, "resample label verdict"]) -> Float[ndarray, " resample"]:
    """Kappa of each table; NaN where the labels and the verdicts are all the same."""
    shares = tables / tables.sum((1, 2), keepdims=True)
    chance = (shares.sum(2) * shares.sum(1)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (_accuracies(tables) - chance) / (1 - chance)
