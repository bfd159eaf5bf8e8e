"""How often intervals hold the truth, and how often p-values are small where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from planted.coverage import (
    clustered_coverage,
    false_discoveries,
    mean_coverage,
    recovered_coverage,
    reliability_coverage,
    spearman_coverage,
)
from planted.rates import share
from planted.worlds import World
from revlens.statistics import mean_over_runs

RUNS = 2000


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4])
def test_two_to_four_runs_give_their_range_which_covers_as_coins_fall(n: int) -> None:
    """A range misses the median when all values lie on one side of it: twice in 2^n."""
    assert mean_coverage(n, "normal", RUNS)[0].agrees_with(1 - 2 / 2**n)


def test_five_normal_runs_cover_92_percent() -> None:
    bootstrap, student = mean_coverage(5, "normal", RUNS)
    assert bootstrap.agrees_with(0.92)
    assert bootstrap.is_below(0.95)
    assert student.agrees_with(0.95)


@pytest.mark.parametrize(
    "distribution",
    ["normal", *(pytest.param(other, marks=pytest.mark.slow) for other in ("uniform", "all or none"))],
)
def test_twenty_runs_without_skew_cover_95_percent(distribution: str) -> None:
    found = mean_coverage(20, distribution, RUNS)[0]
    assert not found.is_below(0.945)
    assert not found.is_above(0.955)


@pytest.mark.slow
def test_skew_costs_coverage() -> None:
    assert mean_coverage(5, "skewed", RUNS)[0].is_below(0.90)


@pytest.mark.slow
def test_steps_and_layers_are_no_runs() -> None:
    clustered, naive = clustered_coverage(8, 12, 0.5, 1000)
    assert not clustered.is_below(0.94)
    assert naive.is_below(0.70)


@pytest.mark.slow
def test_points_that_share_nothing_within_a_run_may_be_pooled() -> None:
    """Then the narrow interval is right, and so is the other: the difference lies in the correlation."""
    clustered, naive = clustered_coverage(8, 12, 0.0, 1000)
    assert not clustered.is_below(0.94)
    assert naive.agrees_with(0.95)


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [False, True])
def test_the_recovered_fraction_is_covered_over_prompts(skewed: bool) -> None:
    found = recovered_coverage(32, skewed, 1000)
    assert not found.is_below(0.94)
    assert not found.is_above(0.97)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["isotropic", "spectrum"])
@pytest.mark.parametrize("ratio", [4.0, 10.0])
def test_the_interval_of_the_reliability_covers(ratio: float, noise: str) -> None:
    world = World(d_model=32, n_prompts=32, noise_size=(16 / ratio) ** 0.5, noise=noise)
    found = reliability_coverage(world, 1000, n_splits=200)
    assert not found.is_below(0.93)
    assert not found.is_above(0.97)


@pytest.mark.slow
def test_with_few_prompts_or_more_noise_than_signal_it_is_a_little_wide() -> None:
    found = reliability_coverage(World(d_model=32, n_prompts=16, noise_size=8**0.5), 1000, n_splits=200)
    assert not found.is_below(0.95)
    assert not found.is_above(0.99)


@pytest.mark.slow
def test_spearman_over_runs_covers_and_pooled_points_do_not() -> None:
    clustered, naive = spearman_coverage(8, 12, 300)
    assert not clustered.is_below(0.92)
    assert naive.is_below(0.92)


def test_sign_flips_are_exact() -> None:
    """Of 2^8 = 256 equally likely sign patterns, 12 have p <= 5 %. Of the 2^5 of five runs none has."""
    rng = np.random.default_rng(0)
    p = [mean_over_runs(rng.standard_t(3, size=8), test_zero=True, n_resamples=1).p for _ in range(RUNS)]
    assert share(torch.tensor(p) <= 0.05).agrees_with(12 / 256)
    assert mean_over_runs([1.0, 1.1, 1.2, 1.3, 1.4], test_zero=True).p == pytest.approx(2 / 32)


@pytest.mark.parametrize("between_cells", [0.0, 0.8])
def test_sweeps_without_effect_rarely_show_one(between_cells: float) -> None:
    low_p, found = false_discoveries(10, 12, between_cells, 400)
    assert low_p.agrees_with(50 / 1024)
    assert not found.is_above(0.05)
