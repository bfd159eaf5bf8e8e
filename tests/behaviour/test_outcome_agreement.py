from __future__ import annotations

import random

import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

from revlens.behaviour import OUTCOMES, Outcome, outcome_agreement
from revlens.errors import ProbeError


def drawn(n: int, seed: int = 0) -> tuple[list[Outcome], list[Outcome]]:
    """Labels of all outcomes, and verdicts that are right two times in three."""
    rng = random.Random(seed)
    labels = [rng.choice(OUTCOMES) for _ in range(n)]
    return [label if rng.random() < 2 / 3 else rng.choice(OUTCOMES) for label in labels], labels


def test_shares_are_those_of_scikit_learn() -> None:
    verdicts, labels = drawn(60)
    found = outcome_agreement(verdicts, labels, range(60))
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(verdicts, labels))
    assert found.accuracy.value == pytest.approx(
        sum(v == label for v, label in zip(verdicts, labels, strict=True)) / 60
    )
    assert sum(map(sum, found.confusion)) == 60
    for outcome in OUTCOMES:
        precision, recall = found.precision(outcome), found.recall(outcome)
        assert precision is not None
        assert recall is not None
        options = {"labels": [outcome], "average": "micro"}
        assert precision.value == pytest.approx(precision_score(labels, verdicts, **options))
        assert recall.value == pytest.approx(recall_score(labels, verdicts, **options))
        assert precision.low < precision.value < precision.high


def test_intervals_are_over_groups_and_wider_where_the_replies_of_a_group_are_alike() -> None:
    verdicts, labels = drawn(40)
    apart = outcome_agreement(verdicts * 4, labels * 4, range(160)).accuracy
    together = outcome_agreement(verdicts * 4, labels * 4, list(range(40)) * 4).accuracy
    assert (apart.value, apart.n, together.n) == (together.value, 160, 40)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_a_constant_side_has_no_kappa_and_an_outcome_that_does_not_occur_no_share() -> None:
    found = outcome_agreement(["refusal", "refusal"], ["refusal", "mixed"], [0, 1])
    assert found.kappa is None
    assert found.precision("compliance") is found.recall("compliance") is None
    assert found.confusion[OUTCOMES.index("mixed")][OUTCOMES.index("refusal")] == 1


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 2, 1), (1, 1, 2)])
def test_verdicts_labels_and_groups_must_be_of_the_same_replies(sizes: tuple[int, int, int]) -> None:
    verdicts, labels, groups = sizes
    with pytest.raises(ProbeError, match=f"got {verdicts}, {labels} and {groups}"):
        outcome_agreement(["refusal"] * verdicts, ["refusal"] * labels, ["a"] * groups)
