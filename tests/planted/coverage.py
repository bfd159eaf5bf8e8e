"""How often intervals hold the truth that the data were drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr, t
from torch import Tensor
from transformer_lens.patching import PatchingResult, make_df_from_ranges
from transformer_lens.utilities.statistics import derive_generator

from planted.rates import Rate, share
from planted.worlds import World
from revlens.causal import PatchSweep
from revlens.direction import reliability
from revlens.statistics import mean_over_runs, spearman_over_runs


class Distribution(NamedTuple):
    """Values of runs, of known mean."""

    mean: float
    draw: Callable[[np.random.Generator, int], np.ndarray]


DISTRIBUTIONS = {
    "normal": Distribution(0.0, lambda rng, n: rng.normal(size=n)),
    "uniform": Distribution(0.5, lambda rng, n: rng.uniform(size=n)),
    # Harmfulness by seed is often near none or near all.
    "all or none": Distribution(0.5, lambda rng, n: rng.beta(0.5, 0.5, size=n)),
    "heavy tails": Distribution(0.0, lambda rng, n: rng.standard_t(3, size=n)),
    "skewed": Distribution(1.0, lambda rng, n: rng.exponential(size=n)),
}


def mean_coverage(n: int, distribution: str, n_runs: int, *, seed: int = 0) -> tuple[Rate, Rate]:
    """`mean_over_runs` of ``n`` values, and Student's t beside it on the same values."""
    rng, (mean, draw) = np.random.default_rng(seed), DISTRIBUTIONS[distribution]
    bootstrap, student = [], []
    for i in range(n_runs):
        x = draw(rng, n)
        estimate = mean_over_runs(x, n_resamples=2000, seed=i)
        bootstrap.append(estimate.low <= mean <= estimate.high)
        student.append(abs(x.mean() - mean) <= t.ppf(0.975, n - 1) * x.std(ddof=1) / n**0.5)
    return share(torch.tensor(bootstrap)), share(torch.tensor(student))


def clustered_coverage(
    n: int, n_points: int, within_run: float, n_runs: int, *, seed: int = 0
) -> tuple[Rate, Rate]:
    """An interval for the mean of ``n`` runs of ``n_points`` steps or layers: over runs, and over points.

    Args:
        within_run: correlation of two points of one run.
    """
    rng = np.random.default_rng(seed)
    clustered: list[bool] = []
    naive: list[bool] = []
    for i in range(n_runs):
        x = within_run**0.5 * rng.normal(size=(n, 1)) + (1 - within_run) ** 0.5 * rng.normal(
            size=(n, n_points)
        )
        for values, held in ((x.mean(1), clustered), (x.ravel(), naive)):
            estimate = mean_over_runs(values, n_resamples=2000, seed=i)
            held.append(estimate.low <= 0 <= estimate.high)
    return share(torch.tensor(clustered)), share(torch.tensor(naive))


def sweep_of(effect: Tensor, gap: Tensor) -> PatchSweep:
    """A sweep of one layer with effects [pos prompt] on a baseline of zero."""
    index = make_df_from_ranges([1, len(effect)], ["layer", "pos"])
    result = PatchingResult(
        effect[None], ["layer", "pos"], index, ["metric"], reduced=False, baseline=torch.zeros(len(gap))
    )
    return PatchSweep(result, gap, (0,), tuple(range(-len(effect), 0)), "resid_post", "full", 0.0)


def recovered_coverage(n_prompts: int, skewed: bool, n_runs: int, *, seed: int = 0) -> Rate:
    """`PatchSweep.recovered_interval` if prompts recover about 40 % of their gaps, which differ."""
    generator, held = derive_generator(seed, "recovered coverage"), []
    for _ in range(n_runs):
        gap = 2 + torch.randn(n_prompts, generator=generator)
        if skewed:
            gap = 2 * torch.empty(n_prompts).exponential_(generator=generator)
        low, high = sweep_of(
            (0.4 * gap + torch.randn(n_prompts, generator=generator))[None], gap
        ).recovered_interval()
        held.append(bool(low <= 0.4 <= high))
    return share(torch.tensor(held))


def false_discoveries(
    n_prompts: int, n_cells: int, between_cells: float, n_runs: int, *, seed: int = 0
) -> tuple[Rate, Rate]:
    """If no cell has an effect: cells with p <= 5 %, and sweeps in which `PatchSweep.significant` finds any.

    Args:
        between_cells: correlation of the effects of two cells on one prompt.
    """
    generator = derive_generator(seed, "false discoveries")
    low_p, found = [], []
    for _ in range(n_runs):
        shared, own = (
            torch.randn(1, n_prompts, generator=generator),
            torch.randn(n_cells, n_prompts, generator=generator),
        )
        sweep = sweep_of(
            between_cells**0.5 * shared + (1 - between_cells) ** 0.5 * own, torch.ones(n_prompts)
        )
        low_p.append(sweep.p_values()[0, 0] <= 0.05)
        found.append(sweep.significant().any())
    return share(torch.stack(low_p)), share(torch.stack(found))


def reliability_coverage(world: World, n_runs: int, *, n_splits: int = 500, seed: int = 0) -> Rate:
    """The interval of `reliability` against the true one, signal / (signal + noise)."""
    acts = world.sample(n_runs, seed).activations
    found = reliability(
        acts.at("reference", "direction"), acts.at("aligned", "direction"), n_splits=n_splits, seed=seed
    )
    truth = world.signal_to_noise / (1 + world.signal_to_noise)
    return share((found.low <= truth) & (truth <= found.high))


def spearman_coverage(n: int, n_points: int, n_runs: int, *, seed: int = 0) -> tuple[Rate, Rate]:
    """`spearman_over_runs`, and the same interval as if every point were a run of its own.

    Both sides have an offset by run (correlated 0.5 between the sides) and a common trend over points.
    """
    rng = np.random.default_rng(seed)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        trend = np.linspace(-1, 1, n_points)
        offset = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=n)
        x, y = (trend + offset[:, [side]] + 0.5 * rng.normal(size=(n, n_points)) for side in (0, 1))
        return x, y

    x, y = draw(20_000)
    truth = float(spearmanr(x.ravel(), y.ravel()).statistic)
    clustered: list[bool] = []
    naive: list[bool] = []
    for i in range(n_runs):
        x, y = draw(n)
        for held, shape in ((clustered, (n, n_points)), (naive, (n * n_points, 1))):
            estimate = spearman_over_runs(x.reshape(shape), y.reshape(shape), n_resamples=300, seed=i)
            held.append(estimate.low <= truth <= estimate.high)
    return share(torch.tensor(clustered)), share(torch.tensor(naive))
