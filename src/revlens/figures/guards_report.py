"""The report of the guards: what they keep of alignment, at what cost, for how long, and by which route."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from revlens.experiment import (
    HARMED,
    PREDICTORS,
    ExperimentConfig,
    Guards,
    GuardTables,
    against_baseline,
    chosen_on_other_seeds,
    cumulative_reversion,
    routes,
    settings,
    start_note,
)
from revlens.figures.cells import cell, mean_cell, mean_cells, measured, strength_cell
from revlens.figures.early_warning_plots import EARLY_WARNING_PLOTS
from revlens.figures.guard_course_plots import GUARD_COURSE_PLOTS
from revlens.figures.guard_plots import GRID_PLOTS, METHOD_PLOTS, OUTCOME_PLOTS, ROUTE_PLOTS, has_part
from revlens.figures.page import Table
from revlens.figures.replies import ReplyView
from revlens.figures.report import Report, Section
from revlens.results import MIN_RUNS
from revlens.statistics import mean_over_runs
from revlens.training import METHODS

_COURSES = {"lasting": "Longer runs", "released": "Guards that are switched off on the way"}
#: What the replies of each part compare.
_PARTS = {
    "grid": "methods and strengths",
    "lasting": "longer runs",
    "released": "guards switched off",
    "transfer": "v_rev from elsewhere",
    "early": "benign tasks without a guard",
}


def _lead(config: ExperimentConfig) -> str:
    lengths = [str(steps) for steps in sorted({fine_tune.steps for fine_tune in config.fine_tunes()})]
    either = " or ".join([", ".join(lengths[:-1]), lengths[-1]] if len(lengths) > 1 else lengths)
    return (
        f"{config.subject.summary} Runs of each setting: {len(config.seeds)}. Benign updates: {either}. All "
        "fine-tunes of a seed share start, data order, optimizer and schedule."
    )


def _notes(config: ExperimentConfig, tables: GuardTables) -> list[str]:
    caveat, n_runs, failures = config.subject.caveat, len(config.seeds), len(tables["failures"])
    notes = [caveat] if caveat else []
    if n_runs < MIN_RUNS:
        notes.append(f"Only {n_runs} runs of each setting: at least {MIN_RUNS} are needed for a verdict.")
    if missed := start_note(config, tables["starts"]):
        notes.append(missed)
    if failures:
        notes.append(
            f"{failures} run(s) stopped because numbers were no longer finite; they are listed under Guards."
        )
    return notes


def _guard_tables(config: ExperimentConfig, tables: GuardTables) -> list[Table]:
    failed = [_failure_table(tables)] if len(tables["failures"]) else []
    return [_grid_table(tables), _chosen_table(tables), _cumulative_table(config, tables), *failed]


def _route_tables(config: ExperimentConfig, tables: GuardTables) -> list[Table]:
    return [_route_table(tables)]


def _course_tables(config: ExperimentConfig, tables: GuardTables) -> list[Table]:
    courses = {part: heading for part, heading in _COURSES.items() if has_part(part)(tables)}
    return [_course_table(tables, part, heading) for part, heading in courses.items()]


def _warning_tables(config: ExperimentConfig, tables: GuardTables) -> list[Table]:
    return [_task_table(tables), _early_warning_table(tables)] if has_part("early")(tables) else []


def _replies(tables: GuardTables) -> list[ReplyView]:
    """Of every part of the study, and of the last models under clamps."""
    replies, routes = tables["replies"], tables["route_replies"]
    of_parts = [
        ReplyView(_PARTS[str(part)], rows.assign(arm=[_fine_tune_name(row) for row in rows.itertuples()]))
        for part, rows in replies.groupby("part", sort=False)
    ]
    clamped = routes.assign(arm=[_clamp_name(row) for row in routes.itertuples()], step="")
    return [*of_parts, ReplyView("clamped along v_rev", clamped)]


def _fine_tune_name(row: Any) -> str:
    """A fine-tune apart from its seed: "block 4", "block 4, v_rev other-seed" or "baseline, gsm8k x 2"."""
    parts = [f"{row.method} {strength_cell(row.strength)}".strip()]
    parts += [f"until {row.until:g}"] if not np.isnan(row.until) else []
    parts += [f"{row.task} x {row.rate:g}"] if row.part == "early" else []
    parts += [f"v_rev {row.direction}"] if row.direction != "own" else []
    return ", ".join(parts)


def _clamp_name(row: Any) -> str:
    """A model and its clamp: "block 4, as it is" or "block 4, random to the baseline mean 2"."""
    name = "aligned" if row.model == "aligned" else _fine_tune_name(row)
    if row.clamped == "none":
        return f"{name}, as it is"
    draw = f" {row.draw}" if row.clamped == "random" else ""
    return f"{name}, {row.clamped} to the {row.place} mean{draw}"


def _grid_table(tables: GuardTables) -> Table:
    table = against_baseline(tables)
    motion = {"alignment": "alignment", "fraction": "reversion fraction", "kl": "KL on probes (nats)"}
    measures, rows = measured(table) | motion, []
    for (method, strength), group in settings(table):
        known = [group[measure].dropna() for measure in measures]
        cells = [mean_cell(values) if len(values) else "" for values in known]
        rows.append([method, strength_cell(strength), METHODS[method].strength or "", *cells])
    columns = ["method", "strength", "which is", *measures.values()]
    return Table("Every method and strength after the last update", columns, rows)


def _chosen_table(tables: GuardTables) -> Table:
    table = chosen_on_other_seeds(tables)
    measures, rows = measured(table), []
    for method, group in table.groupby("method", sort=False):
        chosen = ", ".join(strength_cell(value) for value in group.sort_values("seed")["strength"])
        change = mean_over_runs((group["refusal"] - group["refusal_base"]).to_numpy(float), test_zero=True)
        p = "" if change.p is None else f"{change.p:.3f}"
        rows.append([str(method), chosen.strip(", "), cell(change), p, *mean_cells(group, measures)])
    columns = [
        "method",
        "strength by seed",
        "refusals minus baseline",
        "p (sign flips)",
        *measures.values(),
    ]
    return Table("Each method at the strength that the other seeds choose", columns, rows)


def _route_table(tables: GuardTables) -> Table:
    chosen = chosen_on_other_seeds(tables)[["seed", "method", "strength"]]
    places = chosen.merge(routes(tables), on=["seed", "method", "strength"])
    columns = {
        "as_it_is": "as it is",
        "own": "own mean along v_rev",
        "baseline": "baseline's mean along v_rev",
        "random": "moved as far along random directions",
        "lost": "own minus baseline's",
    }
    rows = [[str(model), *mean_cells(group, columns)] for model, group in places.groupby("model", sort=False)]
    heading = "Clean refusals with the place along a direction set to a mean"
    return Table(heading, ["model", *columns.values()], rows)


def _cumulative_table(config: ExperimentConfig, tables: GuardTables) -> Table:
    assert isinstance(config.plan, Guards)
    base, rows = cumulative_reversion(tables, "baseline", np.nan), []
    for method, strengths in config.plan.grid.items():
        for strength in (np.nan if strength is None else strength for strength in strengths):
            own = cumulative_reversion(tables, method, strength)
            if len(own) == len(base):
                share = 1 - own.mean() / base.mean()
                cells = [mean_cell(own), mean_cell(own - base), f"{share:.0%}"]
                rows.append([method, strength_cell(strength), *cells])
    share_heading = "share of the baseline's taken away (of means)"
    columns = ["method", "strength", "mean fraction", "minus baseline", share_heading]
    return Table("Cumulative reversion: the reversion fraction averaged over updates", columns, rows)


def _course_table(tables: GuardTables, part: str, heading: str) -> Table:
    table = against_baseline(tables, part)
    steps = sorted(table["step"].unique())
    rows = [
        [str(method), *(mean_cell(group.loc[group["step"] == step, "refusal"]) for step in steps)]
        for method, group in table.groupby("method", sort=False)
    ]
    return Table(f"{heading}: clean refusals by step", ["method", *(f"step {step}" for step in steps)], rows)


def _task_table(tables: GuardTables) -> Table:
    """How each benign task drifts and what it does, without a guard, at the rate nearest to the recipe's."""
    readings, behaviour = (tables.part(name, "early") for name in ("readings", "behaviour"))
    rate = min(readings["rate"].unique(), key=lambda rate: abs(np.log(rate)))
    readings, behaviour = (table[table["rate"] == rate] for table in (readings, behaviour))
    last = readings["step"].max()
    steps = [step for step in sorted(readings["step"].unique()) if step in (1, 5, 20, last)]
    rows = []
    for task, harmed in behaviour.groupby("task", sort=False):
        drift = readings[readings["task"] == task]
        cells = [mean_cell(drift.loc[drift["step"] == step, "alignment"]) for step in steps]
        rows.append([str(task), *cells, mean_cell(harmed["refusal"]), mean_cell(harmed["harmfulness"])])
    columns = [
        "benign task",
        *(f"alignment at step {step}" for step in steps),
        "refusals at the end",
        "harmfulness at the end",
    ]
    return Table(f"Benign tasks without a guard, at {rate:g} times the recipe's learning rate", columns, rows)


def _early_warning_table(tables: GuardTables) -> Table:
    def text(row: pd.Series, name: str) -> str:
        value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        return "" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"

    table = tables["early_warning"]
    columns = {
        "auroc": "area under the ROC curve",
        "lead": "alignment's minus it",
        "rank": "rank correlation with harmfulness",
    }
    rows = [
        [str(row["step"]), PREDICTORS[row["predictor"]], *(text(row, name) for name in columns)]
        for _, row in table.iterrows()
    ]
    n, harmed = int(table["n_runs"].iloc[0]), int(table["n_harmed"].iloc[0])
    event = f"{harmed} of {n} runs answer more than {HARMED:.0%} of the harmful prompts at the end"
    return Table(f"Foreseeing harm: {event}", ["step", "predictor", *columns.values()], rows)


def _failure_table(tables: GuardTables) -> Table:
    rows = [
        [
            str(row["method"]),
            strength_cell(float(row["strength"] or np.nan)),
            str(row["seed"]),
            str(row["message"]),
        ]
        for _, row in tables["failures"].iterrows()
    ]
    return Table("Runs that failed", ["method", "strength", "seed", "message"], rows)


GUARDS_REPORT = Report(
    plan="guards",
    title="Which guards keep alignment, at what cost, for how long, and by which route?",
    lead=_lead,
    notes=_notes,
    overview=METHOD_PLOTS,
    sections=(
        Section("guards", "Guards", GRID_PLOTS, _guard_tables),
        Section("causality", "Causality", ROUTE_PLOTS, _route_tables),
        Section("time", "Longer runs", GUARD_COURSE_PLOTS, _course_tables),
        Section("warning", "Early warning", EARLY_WARNING_PLOTS, _warning_tables),
        Section("behaviour", "Behaviour", OUTCOME_PLOTS, replies=_replies),
    ),
)
