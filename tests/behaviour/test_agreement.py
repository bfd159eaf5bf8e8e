from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from revlens.behaviour import agreement
from revlens.behaviour.agreement import _both_sides_vary, _kappas
from revlens.errors import ProbeError


def sides(both: int, judge_only: int, label_only: int, neither: int) -> tuple[list[bool], list[bool]]:
    verdicts = [True] * (both + judge_only) + [False] * (label_only + neither)
    labels = [True] * both + [False] * judge_only + [True] * label_only + [False] * neither
    return verdicts, labels


def test_counts_accuracy_and_kappa_of_a_textbook_table() -> None:
    result = agreement(*sides(20, 5, 10, 15))  # agreement 0.7, by chance 0.5
    assert (result.both, result.judge_only, result.label_only, result.neither, result.n) == (
        20,
        5,
        10,
        15,
        50,
    )
    assert result.accuracy == 0.7
    assert result.kappa is not None
    assert result.kappa.value == pytest.approx(0.4)
    assert result.kappa.low < 0.4 < result.kappa.high
    assert result.kappa.n == 50
    assert result.undefined == 0.0


def test_perfect_and_perfectly_wrong_verdicts() -> None:
    right, wrong = agreement(*sides(4, 0, 0, 4)), agreement(*sides(0, 4, 4, 0))
    assert right.kappa is not None
    assert wrong.kappa is not None
    assert (right.accuracy, right.kappa.value, right.kappa.low, right.kappa.high) == (1.0, 1.0, 1.0, 1.0)
    assert (wrong.accuracy, wrong.kappa.value) == (0.0, -1.0)


@pytest.mark.parametrize(
    "table", [(3, 0, 0, 0), (0, 0, 0, 3), (2, 1, 0, 0), (0, 0, 1, 2), (2, 0, 1, 0), (0, 3, 0, 0)]
)
def test_a_constant_side_leaves_kappa_undefined_and_the_counts_as_they_are(table: tuple[int, ...]) -> None:
    result = agreement(*sides(*table))
    assert result.kappa is None
    assert result.undefined == 1.0
    assert (result.both, result.judge_only, result.label_only, result.neither) == table


def test_the_bootstrap_computes_kappa_as_scikit_learn_does() -> None:
    tables = [table for table in product(range(4), repeat=4) if sum(table)]
    varied = _both_sides_vary(np.array(tables))
    for table, both_vary in zip(tables, varied.tolist(), strict=True):
        verdicts, labels = sides(*table)
        assert both_vary == (len(set(verdicts)) == len(set(labels)) == 2)
    kept = [table for table, both_vary in zip(tables, varied, strict=True) if both_vary]
    assert len(kept) > 100
    np.testing.assert_allclose(
        _kappas(np.array(kept)), [cohen_kappa_score(*sides(*table)) for table in kept], atol=1e-12
    )


def test_neither_the_order_of_completions_nor_the_side_of_the_judge_matters() -> None:
    verdicts, labels = sides(20, 5, 10, 15)
    shuffled = list(zip(verdicts, labels, strict=True))
    random.Random(0).shuffle(shuffled)
    assert agreement([v for v, _ in shuffled], [label for _, label in shuffled]) == agreement(
        verdicts, labels
    )
    swapped, straight = agreement(labels, verdicts).kappa, agreement(verdicts, labels).kappa
    assert swapped is not None
    assert straight is not None
    assert swapped.value == pytest.approx(straight.value)


def test_the_interval_is_that_of_resampled_completions_and_narrows_with_them() -> None:
    verdicts, labels = sides(20, 5, 10, 15)
    rng = random.Random(1)
    draws = [rng.choices(range(50), k=50) for _ in range(2000)]
    kappas = [cohen_kappa_score([verdicts[i] for i in draw], [labels[i] for i in draw]) for draw in draws]
    kappa = agreement(verdicts, labels).kappa
    many = agreement(verdicts * 16, labels * 16).kappa
    assert kappa is not None
    assert many is not None
    assert (kappa.low, kappa.high) == pytest.approx(tuple(np.quantile(kappas, (0.025, 0.975))), abs=0.03)
    assert (many.high - many.low) * 4 == pytest.approx(kappa.high - kappa.low, rel=0.1)


def test_resamples_without_a_refusal_are_counted() -> None:
    result = agreement(*sides(1, 0, 0, 99))
    assert result.undefined == pytest.approx(0.99**100, abs=0.02)
    assert result.kappa is not None
    assert result.kappa.low == 1.0


def test_a_seed_fixes_the_interval() -> None:
    verdicts, labels = sides(20, 5, 10, 15)
    assert agreement(verdicts, labels, seed=3) == agreement(verdicts, labels, seed=3)
    assert agreement(verdicts, labels, seed=3) != agreement(verdicts, labels, seed=4)


@pytest.mark.parametrize(("verdicts", "labels"), [([], []), ([True], []), ([True], [True, False])])
def test_verdicts_and_labels_must_be_of_the_same_replies(verdicts: list[bool], labels: list[bool]) -> None:
    with pytest.raises(ProbeError, match=f"got {len(verdicts)} and {len(labels)}"):
        agreement(verdicts, labels)
