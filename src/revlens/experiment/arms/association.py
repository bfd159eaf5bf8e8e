"""The table `association`: what behaviour goes with, alignment or one of its rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from revlens.errors import ConfigError, NonFiniteError
from revlens.statistics import Estimate, bootstrap_by_counts, spearman_of_resamples

#: What behaviour may go with; those of drift are means over layers. ``kl`` is left out where nobody measured
#: it.
PREDICTORS = ("alignment", "fraction", "drift_norm", "kl", "step")
#: Measures of behaviour, and the sign that their correlation with reversion should have.
OUTCOMES = {"harmfulness": 1, "refusal": -1}
#: Which points are ranked together: all arms and steps; those of each arm, and then the mean over arms is
#: taken; those of the runs without a guard.
ASSOCIATION_SCOPES = ("all", "within arms", "unguarded")
_UNGUARDED = "baseline"

#: Values of each arm, in the order of seeds and steps.
_ByArm = Mapping[str, Float[ndarray, "run step"]]
#: Correlations of resamples, from how often each has each run.
_Statistic = Callable[[Int[ndarray, "resample run"]], Float[ndarray, " resample"]]


def association_table(drift: pd.DataFrame, behaviour: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlations of behaviour with what may go with it, in every scope.

    Runs are resampled whole, see `revlens.statistics.bootstrap_by_counts`. ``lead`` is the outcome's
    correlation with alignment minus that with the predictor, times the sign that it should have. A
    correlation with a side that is constant is NaN. Within arms, those in which the outcome is constant are
    left out; the table names those that count.

    Args:
        drift: columns ``arm, seed, step`` and the predictors of drift, means over layers.
        behaviour: columns ``arm, seed, step`` and the outcomes; ``kl`` too where it was measured.

    Raises:
        ConfigError: if runs differ in their arms or steps.
        NonFiniteError: if a value is NaN or infinite: no run is left out silently.
    """
    keys = ["seed", "arm", "step"]
    points = drift.merge(behaviour[[c for c in behaviour if c in (*keys, "kl", *OUTCOMES)]], on=keys)
    values = {name: _by_arm(points, name) for name in (*PREDICTORS, *OUTCOMES) if name in points}
    outcomes, predictors = ([name for name in names if name in values] for names in (OUTCOMES, PREDICTORS))
    return pd.DataFrame([_row(values, *of) for of in product(outcomes, predictors, ASSOCIATION_SCOPES)])


def association_estimate(row: pd.Series, name: str) -> Estimate | None:
    """``spearman`` or ``lead`` of a row with its interval; None where it is not defined."""
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return None if np.isnan(value) else Estimate(value, low, high, int(row["n_runs"]))


def _row(values: Mapping[str, _ByArm], outcome: str, predictor: str, scope: str) -> dict[str, Any]:
    y = values[outcome]
    arms = [_UNGUARDED] if scope == "unguarded" else list(y)
    if scope == "within arms":
        arms = [arm for arm in arms if np.ptp(y[arm]) > 0]
    own, leader = (_spearman(values[x], y, arms, scope) for x in (predictor, "alignment"))
    n_runs = len(next(iter(y.values())))
    row: dict[str, Any] = {
        "outcome": outcome,
        "predictor": predictor,
        "scope": scope,
        "arms": ", ".join(arms),
        "n_runs": n_runs,
    }
    leading = None
    if predictor != "alignment":
        leading = _estimate(lambda counts: OUTCOMES[outcome] * (leader(counts) - own(counts)), n_runs)
    for name, estimate in (("spearman", _estimate(own, n_runs)), ("lead", leading)):
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high")):
            row[f"{name}{end}"] = np.nan if estimate is None else getattr(estimate, field)
    return row


def _spearman(x: _ByArm, y: _ByArm, arms: list[str], scope: str) -> _Statistic:
    if scope == "within arms":
        return lambda counts: (
            np.mean([spearman_of_resamples(x[arm], y[arm], counts) for arm in arms], axis=0)
            if arms
            else np.full(len(counts), np.nan)
        )
    all_x, all_y = (np.hstack([values[arm] for arm in arms]) for values in (x, y))
    return lambda counts: spearman_of_resamples(all_x, all_y, counts)


def _estimate(statistic: _Statistic, n_runs: int) -> Estimate | None:
    """None where it is not defined, or in hardly any resample: too few of the runs vary."""
    try:
        estimate = bootstrap_by_counts(statistic, n_runs, label="association")
    except ConfigError:
        return None
    return None if np.isnan(estimate.value) else estimate


def _by_arm(points: pd.DataFrame, column: str) -> _ByArm:
    by_arm = {}
    for arm, rows in points.groupby("arm", sort=False):
        table = rows.assign(value=rows[column]).pivot(index="seed", columns="step", values="value")
        if len(rows) != table.size or len(table) != points["seed"].nunique():
            raise ConfigError(
                f"Runs of arm {arm!r} are not all there at the same steps, so they have no ranks."
            )
        if not np.isfinite(table.to_numpy(float)).all():
            raise NonFiniteError(f"{column} of arm {arm!r} must be finite, got {table.to_numpy().tolist()}.")
        by_arm[str(arm)] = table.to_numpy(float)
    return by_arm
