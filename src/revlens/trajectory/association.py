"""How well a reading of the drift goes with behaviour, over run-steps: rank correlation, and prediction of who is harmed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata, spearmanr

from revlens.errors import ConfigError, NonFiniteError
from revlens.statistics import Estimate, bootstrap_over_runs


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
    _check("spearman_over_runs", x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ConfigError("spearman_over_runs needs values that vary; one side is constant.")
    return bootstrap_over_runs(
        lambda pick: float(spearmanr(x[pick].ravel(), y[pick].ravel()).statistic),
        len(x),
        is_defined=lambda pick: bool(np.ptp(x[pick]) > 0 and np.ptp(y[pick]) > 0),
        n_resamples=n_resamples,
        seed=seed,
        label="spearman",
    )


def auroc_over_runs(
    score: Float[ndarray, "run point"],
    event: Bool[ndarray, "run point"],
    *,
    minus: Float[ndarray, "run point"] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Area under the ROC curve of a score that is to tell points with an event from those without, pooled over runs.

    That is the chance that a point with the event has the higher score: 0.5 is none. The interval resamples whole runs, as in
    `spearman_over_runs`; a resample in which all points have the event, or none, is drawn again.

    Args:
        score: higher where the event is expected.
        event: whether it came.
        minus: another score, whose area is subtracted in every resample: which one predicts better.
        n_resamples: bootstrap resamples.
        seed: of the resamples.

    Raises:
        ConfigError: if shapes differ, there is no run, or all points have the event, or none.
        NonFiniteError: if a score is NaN or infinite.
    """
    scores = [score] if minus is None else [score, minus]
    for values in scores:
        _check("auroc_over_runs", values, event.astype(float))
    if event.all() or not event.any():
        raise ConfigError(
            f"auroc_over_runs needs points with the event and without; {'all' if event.all() else 'none'} of {event.size} have it."
        )

    def statistic(pick: ndarray) -> float:
        areas = [_auroc(values[pick].ravel(), event[pick].ravel()) for values in scores]
        return areas[0] - sum(areas[1:])

    return bootstrap_over_runs(
        statistic,
        len(event),
        is_defined=lambda pick: bool(event[pick].any() and not event[pick].all()),
        n_resamples=n_resamples,
        seed=seed,
        label="auroc",
    )


def _auroc(score: Float[ndarray, " point"], event: Bool[ndarray, " point"]) -> float:
    """By the rank sum (Mann-Whitney), ties counted half; scikit-learn's is the same and takes ten times as long."""
    n = int(event.sum())
    return float((rankdata(score)[event].sum() - n * (n + 1) / 2) / (n * (len(event) - n)))


def _check(name: str, x: Float[ndarray, "run point"], y: Float[ndarray, "run point"]) -> None:
    if x.shape != y.shape or x.shape[0] == 0:
        raise ConfigError(f"{name} needs equal shapes with at least 1 run, got {x.shape} and {y.shape}.")
    values = np.concatenate([x.ravel(), y.ravel()])
    if not np.isfinite(values).all():
        raise NonFiniteError(f"{name} needs finite values, got {values[~np.isfinite(values)][0]}.")
