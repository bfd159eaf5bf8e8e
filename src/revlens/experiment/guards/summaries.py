"""What the tables of a study say: trade-offs, strengths chosen on other seeds, and routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from revlens.experiment.evaluation import MEASURES
from revlens.experiment.guards.tables import GuardTables
from revlens.results import OVER_REFUSAL, PERPLEXITY_FACTOR
from revlens.statistics import Estimate, mean_over_runs


def against_baseline(tables: GuardTables, part: str = "grid") -> pd.DataFrame:
    """The rows of ``behaviour`` of a part, beside the baseline's values at the same seed and step.

    Further columns: ``harmfulness_base, over_refusal_base, ...``, and ``perplexity_ratio``. Fine-tunes whose
    guard is switched off on the way have the long baseline beside them.
    """
    rows = tables.part("behaviour", part)
    base = tables.part("behaviour", "lasting" if part in ("lasting", "released") else "grid")
    base = base[base["method"] == "baseline"]
    measures = [name for name in (*MEASURES, "alignment", "fraction") if name in rows]
    beside = base[["seed", "step", *measures]].rename(columns={name: f"{name}_base" for name in measures})
    joined = rows.merge(beside, on=["seed", "step"], how="left", validate="many_to_one")
    if "task_loss" in rows:
        joined["perplexity_ratio"] = np.exp(joined["task_loss"] - joined["task_loss_base"])
    return joined


class Setting(NamedTuple):
    """A method at one strength; NaN where it has none."""

    method: str
    strength: float


def settings(table: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """The rows of every method and strength, in the order of the grid, seeds in order."""
    for (method, strength), rows in table.groupby(["method", "strength"], sort=False, dropna=False):
        yield Setting(str(method), float(strength)), rows.sort_values("seed")


def chosen_on_other_seeds(tables: GuardTables) -> pd.DataFrame:
    """For every method and seed, the grid's fine-tune at the strength that does best on the *other* seeds.

    Best is the most clean refusals of harmful prompts among the strengths whose mean perplexity ratio and
    added over-refusal keep to the limits of `revlens.results`; where none keeps to them, the weakest. So what
    is reported of a seed had no part in the choice. A strength at which a run failed is not eligible.
    """
    table = against_baseline(tables)
    seeds = sorted(table["seed"].unique())
    chosen = []
    for _, rows in table.groupby("method", sort=False):
        strengths = [strength for (_, strength), _ in settings(rows)]
        for seed in seeds:
            others = rows[rows["seed"] != seed] if len(seeds) > 1 else rows
            best = _best(others, strengths, n_runs=max(1, len(seeds) - 1))
            own = rows[(rows["seed"] == seed) & _same(rows["strength"], best)]
            chosen.append(own)
    return pd.concat(chosen, ignore_index=True)


def _best(rows: pd.DataFrame, strengths: Sequence[float], *, n_runs: int) -> float:
    best, most = strengths[0], -np.inf
    for strength in strengths:
        runs = rows[_same(rows["strength"], strength)]
        if len(runs) < n_runs:  # one of them failed
            continue
        cost = runs["perplexity_ratio"].mean() if "perplexity_ratio" in runs else 1.0
        added = (runs["over_refusal"] - runs["over_refusal_base"]).mean()
        kept = runs["refusal"].mean()
        if cost <= PERPLEXITY_FACTOR and added <= OVER_REFUSAL and kept > most:
            best, most = strength, kept
    return best


def _same(column: pd.Series, strength: float) -> pd.Series:
    return column.isna() if np.isnan(strength) else column == strength


def cumulative_reversion(tables: GuardTables, method: str, strength: float) -> pd.Series:
    """Mean reversion fraction over the updates of a grid fine-tune, by seed.

    It is the area under the curve of the fraction, divided by the number of updates.
    """
    rows = tables.part("readings", "grid")
    rows = rows[(rows["method"] == method) & _same(rows["strength"], strength)].sort_values(["seed", "step"])
    return rows.groupby("seed")[["step", "fraction"]].apply(_mean_over_updates)


def _mean_over_updates(run: pd.DataFrame) -> float:
    steps, fraction = np.array([0, *run["step"]]), np.array([0.0, *run["fraction"]])
    return float(np.trapezoid(fraction, steps) / steps[-1])


def routes(tables: GuardTables) -> pd.DataFrame:
    """A row per model at the end of a grid fine-tune: its refusals under the clamps of `measure_route`.

    Columns: ``as_it_is``; ``own`` and ``baseline``, the place along v_rev set to its own mean and to the
    baseline's; ``random``, moved as far as by that along random directions (a mean over draws); and ``lost``,
    own minus baseline.
    """
    table = tables["routes"].copy()
    table["column"] = (
        table["place"].where(table["clamped"] != "random", "random").replace("as it is", "as_it_is")
    )
    keys = ["seed", "method", "strength", "model"]
    wide = (
        table.groupby([*keys, "column"], dropna=False, sort=False)["refusal"].mean().unstack().reset_index()
    )
    return wide.assign(lost=wide["own"] - wide["baseline"])


def mean_of(rows: pd.DataFrame, column: str) -> Estimate:
    """Mean over runs."""
    return mean_over_runs(rows[column].to_numpy(float))
