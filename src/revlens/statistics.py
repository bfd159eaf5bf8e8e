"""Estimates over runs. Runs (seeds) are the unit of replication, never steps, layers or prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.stats import norm, t
from transformer_lens.utilities.statistics import bootstrap_ci, derive_generator, sign_flip_permutation_pvalue

from revlens.errors import ConfigError, NonFiniteError


@dataclass(frozen=True)
class Estimate:
    """A statistic over runs, such as their mean, with its 95 % bootstrap interval.

    Attributes:
        value: the statistic.
        low: lower end of the interval.
        high: upper end.
        n: number of runs. One run gives no interval: ``low`` and ``high`` are then the value itself.
        p: exact sign-flip permutation p-value (two-sided) that the mean is zero, where that was asked for.
    """

    value: float
    low: float
    high: float
    n: int
    p: float | None = None

    def __str__(self) -> str:
        return self.to_text(3)

    def to_text(self, digits: int) -> str:
        """The value with its interval, or with a remark that there is none."""
        interval = f"[{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.n > 1 else "(one run)"
        return f"{self.value:.{digits}f} {interval}"


def small_sample_confidence(n: int, confidence: float = 0.95) -> float:
    """The nominal level at which a percentile bootstrap of ``n`` values covers a mean at ``confidence``.

    The bootstrap's spread is too small by sqrt((n-1)/n) and its tails are normal where Student's t is due; with 5 normal
    values a plain 95 % percentile interval covers about 84 %, one of expanded percentiles (Hesterberg 2015, arXiv
    1411.5279) about 92 %.

    Raises:
        ConfigError: with fewer than 2 values.
    """
    if n < 2:
        raise ConfigError(f"An interval over runs needs at least 2 of them, got {n}.")
    z = (n / (n - 1)) ** 0.5 * t.ppf((1 + confidence) / 2, n - 1)
    # With 2 or 3 values this reaches 1: the interval is then their range, the most that resampling them can give.
    return min(float(2 * norm.cdf(z) - 1), 1 - 1e-9)


def mean_over_runs(values: Iterable[float], *, test_zero: bool = False, n_resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean of one value per run with a 95 % bootstrap interval over runs.

    Raises:
        ConfigError: without a run.
        NonFiniteError: if a value is NaN or infinite: no run is left out silently.
    """
    x = torch.tensor(list(values), dtype=torch.float64)
    if not x.isfinite().all():
        raise NonFiniteError(f"Values over runs must be finite, got {x.tolist()}.")
    if len(x) == 0:
        raise ConfigError("No runs to average.")
    if len(x) == 1:
        return Estimate(float(x), float(x), float(x), 1)
    low, high = bootstrap_ci(
        x, confidence=small_sample_confidence(len(x)), n_resamples=n_resamples, generator=derive_generator(seed, "runs")
    )
    p = float(sign_flip_permutation_pvalue(x, generator=derive_generator(seed, "flips"))) if test_zero else None
    return Estimate(float(x.mean()), float(low), float(high), len(x), p)
