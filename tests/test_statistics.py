from __future__ import annotations

import numpy as np
import pytest

from revlens.errors import ConfigError, NonFiniteError
from revlens.statistics import mean_over_runs, small_sample_confidence


def test_mean_and_exact_p() -> None:
    estimate = mean_over_runs([1.0, 2.0, 3.0, 4.0, 5.0], test_zero=True)
    assert estimate.value == 3.0
    assert estimate.n == 5
    assert estimate.p == pytest.approx(2 / 32)  # of 32 sign patterns only all-plus and all-minus are as extreme
    assert estimate.low < 3.0 < estimate.high


def test_equal_values_give_a_point() -> None:
    estimate = mean_over_runs([0.25] * 5)
    assert (estimate.low, estimate.value, estimate.high) == (0.25, 0.25, 0.25)


def test_one_run_gives_its_value_and_says_that_there_is_no_interval() -> None:
    estimate = mean_over_runs([0.25], test_zero=True)
    assert (estimate.low, estimate.value, estimate.high, estimate.n, estimate.p) == (0.25, 0.25, 0.25, 1, None)
    assert str(estimate) == "0.250 (one run)"


def test_the_same_call_gives_the_same_interval() -> None:
    assert mean_over_runs([1.0, 2.0, 4.0], seed=3) == mean_over_runs([1.0, 2.0, 4.0], seed=3)


def test_two_runs_give_their_range() -> None:
    estimate = mean_over_runs([1.0, 3.0])
    assert (estimate.low, estimate.high) == (1.0, 3.0)


def test_the_interval_shifts_and_scales_with_the_values() -> None:
    x = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    base, moved = mean_over_runs(x), mean_over_runs(10 * x - 3)
    assert moved.low == pytest.approx(10 * base.low - 3)
    assert moved.high == pytest.approx(10 * base.high - 3)


def test_intervals_of_five_runs_cover() -> None:
    """About 92 % where plain percentiles cover 84 %; 400 simulations put the standard error at 1.4 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(400):
        estimate = mean_over_runs(rng.normal(size=5), n_resamples=2000, seed=i)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.885 <= covered / 400 <= 0.97


def test_confidence_falls_to_nominal_with_many_runs() -> None:
    assert small_sample_confidence(5) > small_sample_confidence(20) > small_sample_confidence(10_000)
    assert small_sample_confidence(10_000) == pytest.approx(0.95, abs=1e-3)


def test_too_few_runs_and_missing_values_are_errors() -> None:
    with pytest.raises(ConfigError, match="No runs"):
        mean_over_runs([])
    with pytest.raises(NonFiniteError, match="nan"):
        mean_over_runs([1.0, float("nan"), 2.0])
