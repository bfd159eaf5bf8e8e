"""Shares of simulated runs with exact binomial intervals, and how often runs exceed each null."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import binomtest
from torch import Tensor

from planted.worlds import Planted, World
from revlens.direction import drift, locate, nulls
from revlens.direction.nulls import NULLS

#: Runs in one call of the package's functions: as many as fit into a few hundred MB.
_RUNS_AT_ONCE = 100


@dataclass(frozen=True)
class Rate:
    """How many of n simulated runs."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Its exact 95 % interval (Clopper-Pearson)."""
        low, high = binomtest(self.hits, self.n).proportion_ci(0.95, "exact")
        return float(low), float(high)

    def agrees_with(self, p: float) -> bool:
        """Whether a true share ``p`` gives such a count in all but one of ten thousand simulations."""
        return float(binomtest(self.hits, self.n, p).pvalue) > 1e-4

    def is_above(self, p: float) -> bool:
        """Whether a true share of at most ``p`` gives so high a count once in ten thousand simulations."""
        return float(binomtest(self.hits, self.n, p, alternative="greater").pvalue) < 1e-4

    def is_below(self, p: float) -> bool:
        """Whether a true share of at least ``p`` gives so low a count once in ten thousand simulations."""
        return float(binomtest(self.hits, self.n, p, alternative="less").pvalue) < 1e-4

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def share(hits: Bool[Tensor, " run"]) -> Rate:
    """The rate of hits."""
    return Rate(int(hits.sum()), len(hits))


def rejections(
    world: World,
    n_runs: int,
    *,
    n_draws: int = 1000,
    which: tuple[str, ...] = tuple(NULLS),
    strata: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[tuple[str, str], Rate]:
    """Shares of runs whose mean alignment over layers exceeds p99 of a null, as the pipeline computes it.

    Returns:
        Rates by null and estimate (``cross-fitted`` or ``naive``, against the same thresholds).
    """
    hits: dict[tuple[str, str], list[Tensor]] = {
        (null, estimate): [] for null in which for estimate in ("cross-fitted", "naive")
    }
    for batch, start in enumerate(range(0, n_runs, _RUNS_AT_ONCE)):
        planted = world.sample(min(_RUNS_AT_ONCE, n_runs - start), seed=1000 * seed + batch)
        acts = planted.activations
        crossed = drift(acts, locate(acts))
        estimates = {"cross-fitted": crossed, "naive": drift(acts, locate(acts, "drift"), naive=True)}
        for null, p99 in _thresholds(planted, crossed.vectors, which, n_draws, strata, 1000 * seed + batch):
            for estimate, motion in estimates.items():
                # One row a run, with the run's layers along it.
                hits[null, estimate].append(nulls.exceedance(planted.by_run(motion.alignment[0]), p99))
    return {key: share(torch.cat(parts) == 1) for key, parts in hits.items()}


def _thresholds(
    planted: Planted,
    vectors: Float[Tensor, "1 run_layer d_model"],
    which: tuple[str, ...],
    n_draws: int,
    strata: tuple[str, ...],
    seed: int,
) -> Iterator[tuple[str, float | Tensor]]:
    reference, aligned = (planted.activations.at(name, "direction") for name in ("reference", "aligned"))
    for null in which:
        exact, draw = NULLS[null].exact, NULLS[null].directions
        if exact is not None:
            yield null, exact(vectors.shape[-1], [1.0] * planted.n_layers, 0.99)
            continue
        assert draw is not None
        directions = draw(reference, aligned, n_draws, seed, strata)
        cosines = planted.by_run(nulls.NullDistribution.of(vectors, directions, n_prompts=None).cosines[0])
        n_fixed = max(0, len(set(strata)) - 1)
        drawn = nulls.NullDistribution(cosines.transpose(0, 1), len(aligned) - n_fixed)
        yield null, drawn.quantile()
