"""Estimates over runs. Runs (seeds) are the unit of replication, never steps, layers or prompts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import binomtest, norm, rankdata, t
from transformer_lens.utilities.statistics import bootstrap_ci, derive_generator, sign_flip_permutation_pvalue

from revlens.errors import ConfigError, NonFiniteError

#: Where there are at most this many resamples, all are enumerated (126 for 5 runs, 6,435 for 8).
MAX_ENUMERATED = 10_000
#: Resamples without the statistic are left out; at least this share must have it.
_MIN_DEFINED = 0.01
#: Resamples drawn in one go. The numbers do not depend on it; the default of 256 takes twice as long.
_DRAWN_AT_ONCE = 2048


@dataclass(frozen=True)
class Estimate:
    """A statistic over runs, such as their mean, with its 95 % bootstrap interval.

    Attributes:
        value: the statistic.
        low: lower end of the interval.
        high: upper end.
        n: number of runs. One run gives no interval: ``low`` and ``high`` are then the value itself.
        p: sign-flip permutation p-value (two-sided, exact up to 12 runs) of a mean of zero; None if not asked
            for.
    """

    value: float
    low: float
    high: float
    n: int
    p: float | None = None

    def __str__(self) -> str:
        return self.to_text(3)

    @property
    def holds_zero(self) -> bool:
        """Whether zero lies in the interval, its ends included."""
        return self.low <= 0 <= self.high

    def to_text(self, digits: int) -> str:
        """The value with its interval, or with a remark that there is none."""
        interval = f"[{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.n > 1 else "(one run)"
        return f"{self.value:.{digits}f} {interval}"


@functools.cache  # a report asks hundreds of times, for one n
def small_sample_confidence(n: int, confidence: float = 0.95) -> float:
    """The nominal level at which a percentile bootstrap of ``n`` values covers a mean at ``confidence``.

    The bootstrap's spread is too small by sqrt((n-1)/n), and its tails are normal and not Student's. With 5
    normal values a plain 95 % percentile interval covers about 84 %, an interval of expanded percentiles
    (Hesterberg 2015, arXiv 1411.5279) about 92 %.

    Raises:
        ConfigError: with fewer than 2 values.
    """
    if n < 2:
        raise ConfigError(f"An interval over runs needs at least 2 of them, got {n}.")
    z = (n / (n - 1)) ** 0.5 * t.ppf((1 + confidence) / 2, n - 1)
    # With 2 or 3 values this reaches 1: the interval is then their range, the most that resampling them can
    # give.
    return min(float(2 * norm.cdf(z) - 1), 1 - 1e-9)


def wilson(hits: int, n: int) -> Estimate:
    """A share of ``n`` independent cases with its 95 % Wilson interval; ``n`` counts cases, not runs.

    Raises:
        ConfigError: if there is no case, or there are more hits than cases.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not 0 <= hits <= n or n == 0:
        raise ConfigError(f"A share needs at least one case and no more hits than cases, got {hits} of {n}.")
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def mean_over_runs(
    values: Iterable[float], *, test_zero: bool = False, n_resamples: int = 10_000, seed: int = 0
) -> Estimate:
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
        x,
        confidence=small_sample_confidence(len(x)),
        n_resamples=n_resamples,
        generator=derive_generator(seed, "runs"),
        chunk_size=_DRAWN_AT_ONCE,
    )
    p = (
        float(sign_flip_permutation_pvalue(x, generator=derive_generator(seed, "flips")))
        if test_zero
        else None
    )
    return Estimate(float(x.mean()), float(low), float(high), len(x), p)


def bootstrap_over_runs(
    statistic: Callable[[Int[ndarray, " run"]], float],
    n: int,
    *,
    is_defined: Callable[[Int[ndarray, " run"]], bool] = lambda pick: True,
    n_resamples: int = 2000,
    seed: int = 0,
    label: str = "statistic",
) -> Estimate:
    """Any statistic of runs, with a 95 % bootstrap interval that resamples whole runs.

    Args:
        statistic: of the runs with these indices, whose order says nothing.
        n: number of runs.
        is_defined: whether a resample has the statistic; others are left out.
        n_resamples, seed, label: see `bootstrap_by_counts`.

    Raises:
        ConfigError: without a run, or if nearly no resample has the statistic.
    """

    def of_counts(counts: Int[ndarray, "resample run"]) -> Float[ndarray, " resample"]:
        picks = [np.repeat(np.arange(n), row) for row in counts]
        return np.array([statistic(pick) if is_defined(pick) else np.nan for pick in picks])

    return bootstrap_by_counts(of_counts, n, n_resamples=n_resamples, seed=seed, label=label)


def bootstrap_by_counts(
    statistic: Callable[[Int[ndarray, "resample run"]], Float[ndarray, " resample"]],
    n: int,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
    label: str = "statistic",
) -> Estimate:
    """`bootstrap_over_runs` for a statistic that is computed of many resamples at once.

    Percentiles are those of `mean_over_runs`. Up to `MAX_ENUMERATED` resamples are enumerated, each with the
    number of orders in which it can be drawn as its weight; of more, ``n_resamples`` are drawn.

    Args:
        statistic: of resamples, from how often each has each run; NaN where it is not defined.
        n: number of runs.
        n_resamples: bootstrap resamples, where there are too many to enumerate.
        seed: of these, together with ``label``.
        label: names the use.

    Raises:
        ConfigError: without a run, or if nearly no resample has the statistic.
    """
    if n < 1:
        raise ConfigError("No runs to resample.")
    value = float(statistic(np.ones((1, n), dtype=int))[0])
    if n == 1:
        return Estimate(value, value, value, 1)
    counts, weights = (
        _all_resamples(n)
        if math.comb(2 * n - 1, n) <= MAX_ENUMERATED
        else _drawn_resamples(n, n_resamples, seed, label)
    )
    draws = statistic(counts)
    defined = ~np.isnan(draws)
    if weights[defined].sum() < _MIN_DEFINED * weights.sum():
        raise ConfigError(
            f"Hardly any resample of the {n} runs has this statistic ({label}): too few of them vary."
        )
    tail = (1 - small_sample_confidence(n)) / 2
    low, high = _quantiles(draws[defined], weights[defined], (tail, 1 - tail))
    return Estimate(value, low, high, n)


#: How often resamples have each run, and the weight of each resample.
_Resamples = tuple[Int[ndarray, "resample run"], Float[ndarray, " resample"]]


def _all_resamples(n: int) -> _Resamples:
    """Every multiset of ``n`` of ``n`` runs; its weight is the number of orders, n! / (k_1! k_2! ...)."""
    picks = np.array(list(combinations_with_replacement(range(n), n)))
    counts = (picks[:, :, None] == np.arange(n)).sum(1)
    factorials = np.array([math.factorial(k) for k in range(n + 1)], dtype=float)
    return counts, factorials[n] / factorials[counts].prod(1)


def _drawn_resamples(n: int, n_resamples: int, seed: int, label: str) -> _Resamples:
    picks = torch.randint(n, (n_resamples, n), generator=derive_generator(seed, label)).numpy()
    return (picks[:, :, None] == np.arange(n)).sum(1), np.ones(n_resamples)


def _quantiles(
    values: Float[ndarray, " draw"], weights: Float[ndarray, " draw"], levels: Sequence[float]
) -> list[float]:
    """The smallest value at which the weights of all values up to it reach each level."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    index = np.searchsorted(reached, np.array(levels) * reached[-1])
    return values[order][np.minimum(index, len(values) - 1)].tolist()


def ratio_over_runs(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """Mean over runs of one value over the mean of another; runs are resampled with both of their values.

    Raises:
        ConfigError: if there are no runs, or not as many of both.
        NonFiniteError: if a value is not finite, or the denominators' mean is zero.
    """
    x, y = np.asarray(numerator, float), np.asarray(denominator, float)
    if len(x) != len(y) or len(x) == 0:
        raise ConfigError(
            f"A ratio needs as many numerators as denominators and at least one, got {len(x)} and {len(y)}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or y.mean() == 0:
        raise NonFiniteError(
            f"A ratio of means needs finite values and a denominator that is not 0, "
            f"got {x.tolist()} over {y.tolist()}."
        )
    return bootstrap_over_runs(
        lambda pick: float(x[pick].mean() / y[pick].mean()),
        len(x),
        is_defined=lambda pick: bool(y[pick].mean() != 0),
        label="ratio",
    )


def spearman_over_runs(
    x: Float[ndarray, "run point"], y: Float[ndarray, "run point"], *, n_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Spearman correlation pooled over runs and points, with a bootstrap interval that resamples whole runs.

    Points of one run (its steps and arms) are dependent, so runs are the clusters. A resample with a constant
    side has no ranks and is left out. See `bootstrap_by_counts`.

    Raises:
        ConfigError: if shapes differ, there is no run, or x or y is constant (no ranks to compare).
        NonFiniteError: if a value is NaN or infinite: no run is left out silently.
    """
    _check("spearman_over_runs", x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ConfigError("spearman_over_runs needs values that vary; one side is constant.")
    return bootstrap_by_counts(
        lambda counts: spearman_of_resamples(x, y, counts),
        len(x),
        n_resamples=n_resamples,
        seed=seed,
        label="spearman",
    )


def spearman_of_resamples(
    x: Float[ndarray, "run point"], y: Float[ndarray, "run point"], counts: Int[ndarray, "resample run"]
) -> Float[ndarray, " resample"]:
    """Spearman correlation over all points of each resample, ties by mean ranks; NaN if a side is constant.

    A run that a resample has twice counts twice, as if its points were written down twice.
    """
    weights = np.repeat(counts, x.shape[1], axis=1).astype(float)

    def centred_ranks(values: Float[ndarray, "run point"]) -> Float[ndarray, "resample run_point"]:
        distinct, which = np.unique(values.ravel(), return_inverse=True)
        order = np.argsort(which, kind="stable")
        starts = np.searchsorted(which[order], np.arange(len(distinct)))
        ties = np.add.reduceat(weights[:, order], starts, axis=1)
        ranks = (ties.cumsum(1) - ties / 2)[:, which]
        return ranks - (weights * ranks).sum(1, keepdims=True) / weights.sum(1, keepdims=True)

    a, b = centred_ranks(x), centred_ranks(y)
    spread = (weights * a**2).sum(1) * (weights * b**2).sum(1)
    together = (weights * a * b).sum(1)
    return np.divide(together, np.sqrt(spread), out=np.full(len(counts), np.nan), where=spread > 0)


def auroc_over_runs(
    score: Float[ndarray, "run point"],
    event: Bool[ndarray, "run point"],
    *,
    minus: Float[ndarray, "run point"] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Area under the ROC curve of a score that predicts an event at points, pooled over runs.

    That is the chance that a point with the event has a higher score than one without; a score that says
    nothing has 0.5. The interval resamples whole runs, as in `spearman_over_runs`; a resample with the event
    at all points or at none is left out.

    Args:
        score: higher where the event is expected.
        event: whether it happened.
        minus: another score; its area is subtracted in every resample, to compare the two.
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
            f"auroc_over_runs needs points with the event and without; "
            f"{'all' if event.all() else 'none'} of {event.size} have it."
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
    """By the rank sum (Mann-Whitney), ties counted half: equal to scikit-learn's, in a tenth of its time."""
    n = int(event.sum())
    return float((rankdata(score)[event].sum() - n * (n + 1) / 2) / (n * (len(event) - n)))


def _check(name: str, x: Float[ndarray, "run point"], y: Float[ndarray, "run point"]) -> None:
    if x.shape != y.shape or x.shape[0] == 0:
        raise ConfigError(f"{name} needs equal shapes with at least 1 run, got {x.shape} and {y.shape}.")
    values = np.concatenate([x.ravel(), y.ravel()])
    if not np.isfinite(values).all():
        raise NonFiniteError(f"{name} needs finite values, got {values[~np.isfinite(values)][0]}.")
