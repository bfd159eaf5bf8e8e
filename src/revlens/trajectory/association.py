"""Rank association between alignment and behaviour across run-steps."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import spearmanr
from transformer_lens.utilities.statistics import derive_generator

from revlens.errors import ConfigError, NonFiniteError
from revlens.statistics import Estimate, small_sample_confidence


def spearman_over_runs(
    x: Float[ndarray, "run point"], y: Float[ndarray, "run point"], *, n_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Spearman correlation pooled over runs and points, with a bootstrap interval that resamples whole runs.

    Points of one run (its steps and arms) are dependent, so runs are the clusters. Percentiles are expanded for few runs as
    in `revlens.statistics`. A resample in which one side is constant has no ranks and is drawn again.

    Raises:
        ConfigError: if shapes differ, there is no run, or x or y is constant (no ranks to compare).
        NonFiniteError: if a value is NaN or infinite: no run is left out silently.
    """
    if x.shape != y.shape or x.shape[0] == 0:
        raise ConfigError(f"spearman_over_runs needs equal shapes with at least 1 run, got {x.shape} and {y.shape}.")
    values = np.concatenate([x.ravel(), y.ravel()])
    if not np.isfinite(values).all():
        raise NonFiniteError(f"spearman_over_runs needs finite values, got {values[~np.isfinite(values)][0]}.")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ConfigError("spearman_over_runs needs values that vary; one side is constant.")
    value, n = float(spearmanr(x.ravel(), y.ravel()).statistic), x.shape[0]
    if n == 1:
        return Estimate(value, value, value, 1)
    generator = derive_generator(seed, "spearman")
    draws: list[float] = []
    while len(draws) < n_resamples:
        pick = torch.randint(n, (n,), generator=generator).numpy()
        if np.ptp(x[pick]) > 0 and np.ptp(y[pick]) > 0:
            draws.append(spearmanr(x[pick].ravel(), y[pick].ravel()).statistic)
    tail = (1 - small_sample_confidence(n)) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n)
