"""How well a judge's verdicts agree with labels: accuracy, Cohen's kappa and the table behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from revlens.errors import ProbeError
from revlens.statistics import Estimate

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Agreement:
    """Verdicts against labels, True = refused in both.

    Attributes:
        both: replies that judge and label call refused.
        judge_only: refused for the judge alone.
        label_only: refused for the label alone.
        neither: refused for neither.
        kappa: Cohen's kappa (1 = agreement, 0 = as by chance) with its 95 % percentile bootstrap interval
            over completions. None if judge or label says the same of every reply: kappa is then undefined or
            zero, however good the judge is.
        undefined: share of bootstrap samples with such a constant side, which the interval leaves out. Above
            zero, the labels are so one-sided that the interval is rough.
    """

    both: int
    judge_only: int
    label_only: int
    neither: int
    kappa: Estimate | None
    undefined: float

    @property
    def n(self) -> int:
        """Number of replies."""
        return self.both + self.judge_only + self.label_only + self.neither

    @property
    def accuracy(self) -> float:
        """Share of replies on which judge and label agree."""
        return (self.both + self.neither) / self.n


def agreement(verdicts: Sequence[bool], labels: Sequence[bool], *, seed: int = 0) -> Agreement:
    """Compare one verdict per reply with one label per reply (True = refused).

    Raises:
        ProbeError: if they differ in number or are empty.

    Source: Cohen (1960), A coefficient of agreement for nominal scales.
    """
    from sklearn.metrics import cohen_kappa_score  # takes a second, which every other use of revlens saves

    if len(verdicts) != len(labels) or not verdicts:
        raise ProbeError(
            f"Expected as many verdicts as labels and at least one, got {len(verdicts)} and {len(labels)}."
        )
    n, pairs = len(verdicts), list(zip(verdicts, labels, strict=True))
    both, judge_only, label_only, neither = (
        pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))
    )
    kappa, undefined = None, 1.0
    if len(set(verdicts)) == len(set(labels)) == 2:
        # Drawing completions with replacement is drawing the cells of their table.
        shares = np.array([both, judge_only, label_only, neither]) / n
        draws = np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)
        defined = draws[_both_sides_vary(draws)]
        low, high = np.quantile(_kappas(defined), (0.025, 0.975))
        kappa = Estimate(float(cohen_kappa_score(verdicts, labels)), float(low), float(high), n)
        undefined = 1 - len(defined) / _RESAMPLES
    return Agreement(both, judge_only, label_only, neither, kappa, undefined)


def _both_sides_vary(tables: Int[ndarray, "draw 4"]) -> Bool[ndarray, " draw"]:
    """Whether judge and label each call some replies refused and some not."""
    both, judge_only, label_only, neither = tables.T
    sides = np.stack([both + judge_only, label_only + neither, both + label_only, judge_only + neither])
    return np.asarray((sides > 0).all(axis=0))


def _kappas(tables: Int[ndarray, "draw 4"]) -> Float[ndarray, " draw"]:
    """Kappa of each table of counts: both, judge only, label only, neither."""
    both, judge_only, label_only, neither = tables.T / tables.sum(axis=1)
    judge, label = both + judge_only, both + label_only
    chance = judge * label + (1 - judge) * (1 - label)
    return (both + neither - chance) / (1 - chance)
