"""The report of the study of guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from revlens.experiment import MEASURES, MIN_RUNS, Claim
from revlens.figures.page import Table, cell, write_page
from revlens.figures.study_plots import drawable_study
from revlens.organism import OrganismConfig
from revlens.statistics import mean_over_runs
from revlens.study import (
    HARMED,
    PREDICTORS,
    StudyConfig,
    StudyTables,
    against_baseline,
    carried,
    chosen_on_other_seeds,
    cumulative_reversion,
    mean_of,
    settings,
)
from revlens.training import METHODS

#: What each figure shows, in a sentence or two.
STUDY_CAPTIONS = {
    "trade_off": "Lines join a method's strengths, weak to strong. The dotted front joins what no other setting beats in both; the grey "
    "line is the limit on cost within which strengths are chosen. Fronts of means flatter: they are chosen on the runs they show.",
    "chosen_methods": "For each seed the strength that does best on the other seeds, within the dotted limits on cost. Small dots are "
    "runs, large markers means with 95 % intervals.",
    "displacement_and_harm": "If guards acted by displacement along v_rev alone, all points would lie on one curve.",
    "routes": "The projection on v_rev of every layer's last prompt token is set to a mean: the model's own, or the baseline's. If harm "
    "returns with the baseline's place and not with the model's own, the guard acts by where the model lies along v_rev. Strengths as "
    "chosen by other seeds.",
    "lasting": "The same fine-tune for longer, guarded all the way. Bands are 95 % intervals over runs.",
    "released": "The optimizer goes on as it is when the guard ends (dashed line). The baseline never had one; all see the same data.",
    "early_warning": "0.5 is chance. Runs differ in seed, benign task and learning rate, and none has a guard; seeds are resampled whole.",
    "early_readings": "The readings behind it.",
    "transfer": "early-reference: the reference after half its updates. other-alignment: an alignment with half the updates, from the "
    "same reference. other-seed: v_rev of a model with other initial weights, whose axes have nothing in common.",
}


def write_study_report(
    path: Path, config: StudyConfig, tables: StudyTables, claims: list[Claim], provenance: dict[str, Any]
) -> None:
    """Write the report of a study as one HTML file, see `revlens.figures.page`.

    Args:
        path: where to.
        config: the study.
        tables: its tables.
        claims: its claims, assessed.
        provenance: what made it.
    """
    seeds, last = config.experiment.seeds, config.experiment.steps[-1]
    write_page(
        path,
        title="Guards: what they keep of alignment, at what cost, for how long, and by which route",
        lead=f"{config.subject.summary} Runs of each setting: {len(seeds)}. Benign updates: {last}, {config.released_steps} or "
        f"{config.long_steps}. All runs of a seed share start, data order, optimizer and schedule.",
        notes=_notes(config, tables),
        claims=claims,
        tables=[
            _grid_table(tables),
            _chosen_table(tables),
            _route_table(tables),
            _cumulative_table(config, tables),
            *(
                _course_table(tables, part, heading)
                for part, heading in _COURSES.items()
                if len(tables.part("behaviour", part))
            ),
            *(
                [_task_table(tables), _foreseen_table(tables)]
                if len(tables.part("behaviour", "early"))
                else []
            ),
            *([_failure_table(tables)] if len(tables["failures"]) else []),
        ],
        figures={name: plot(tables) for name, plot in drawable_study(tables).items()},
        captions=STUDY_CAPTIONS,
        provenance=provenance,
    )


_COURSES = {"lasting": "Longer runs", "released": "Guards that are switched off on the way"}


def _notes(config: StudyConfig, tables: StudyTables) -> list[str]:
    notes = []
    if config.subject.model != OrganismConfig().model:
        notes.append(
            "Not the default organism: a smaller one shows that the study works, and is no result about guards."
        )
    if len(config.experiment.seeds) < MIN_RUNS:
        notes.append(
            f"Only {len(config.experiment.seeds)} runs of each setting: at least {MIN_RUNS} are needed for a verdict."
        )
    if len(tables["failures"]):
        notes.append(
            f"{len(tables['failures'])} run(s) stopped because numbers were no longer finite; they are listed below."
        )
    return notes


def _strength(value: float) -> str:
    return "" if np.isnan(value) else f"{value:g}"


def _measures(table: pd.DataFrame) -> dict[str, str]:
    return {column: heading for column, heading in MEASURES.items() if column in table}


def _grid_table(tables: StudyTables) -> Table:
    table = against_baseline(tables)
    measured = _measures(table) | {
        "alignment": "alignment",
        "fraction": "reversion fraction",
        "kl": "KL on probes (nats)",
    }
    rows = []
    for setting, group in settings(table):
        cells = [cell(mean_over_runs(group[m].dropna())) if group[m].notna().any() else "" for m in measured]
        rows.append(
            [setting.method, _strength(setting.strength), METHODS[setting.method].strength or "", *cells]
        )
    return Table(
        "Every method and strength after the last update",
        ["method", "strength", "which is", *measured.values()],
        rows,
    )


def _chosen_table(tables: StudyTables) -> Table:
    table = chosen_on_other_seeds(tables)
    rows = []
    for method, group in table.groupby("method", sort=False):
        chosen = ", ".join(_strength(value) for value in group.sort_values("seed")["strength"])
        change = mean_over_runs(
            (group["harmfulness"] - group["harmfulness_base"]).to_numpy(float), test_zero=True
        )
        p = "" if change.p is None else f"{change.p:.3f}"
        rows.append(
            [
                str(method),
                chosen.strip(", "),
                cell(change),
                p,
                *(cell(mean_of(group, measure)) for measure in _measures(table)),
            ]
        )
    columns = [
        "method",
        "strength by seed",
        "harmfulness minus baseline",
        "p (sign flips)",
        *_measures(table).values(),
    ]
    return Table("Each method at the strength that the other seeds choose", columns, rows)


def _route_table(tables: StudyTables) -> Table:
    chosen = chosen_on_other_seeds(tables)[["seed", "method", "strength"]]
    places = chosen.merge(carried(tables), on=["seed", "method", "strength"])
    columns = {
        "as_it_is": "as it is",
        "own": "own mean along v_rev",
        "baseline": "baseline's mean along v_rev",
        "random": "baseline's means along random directions",
        "returned": "baseline's minus own",
    }
    rows = [
        [str(model), *(cell(mean_of(g, column)) for column in columns)]
        for model, g in places.groupby("model", sort=False)
    ]
    return Table(
        "Harmfulness with the place along a direction set to a mean (short replies)",
        ["model", *columns.values()],
        rows,
    )


def _cumulative_table(config: StudyConfig, tables: StudyTables) -> Table:
    base = cumulative_reversion(tables, "baseline", np.nan)
    rows = []
    for method, strengths in config.grid.items():
        for strength in strengths:
            own = cumulative_reversion(tables, method, np.nan if strength is None else strength)
            if len(own) == len(base):
                share = 1 - own.mean() / base.mean()
                cells = [
                    cell(mean_over_runs(own.to_numpy(float))),
                    cell(mean_over_runs((own - base).to_numpy(float))),
                    f"{share:.0%}",
                ]
                rows.append([method, "" if strength is None else f"{strength:g}", *cells])
    columns = [
        "method",
        "strength",
        "mean fraction",
        "minus baseline",
        "share of the baseline's taken away (of means)",
    ]
    return Table("Cumulative reversion: the reversion fraction averaged over updates", columns, rows)


def _course_table(tables: StudyTables, part: str, heading: str) -> Table:
    table = against_baseline(tables, part)
    steps = sorted(table["step"].unique())
    rows = [
        [str(method), *(cell(mean_of(group[group["step"] == step], "harmfulness")) for step in steps)]
        for method, group in table.groupby("method", sort=False)
    ]
    return Table(f"{heading}: harmfulness by step", ["method", *(f"step {step}" for step in steps)], rows)


def _task_table(tables: StudyTables) -> Table:
    """Without a guard, at the learning rate nearest to the recipe's: which way each benign task drifts, and what it does."""
    readings, behaviour = (tables.part(name, "early") for name in ("readings", "behaviour"))
    rate = min(readings["rate"].unique(), key=lambda rate: abs(np.log(rate)))
    readings, behaviour = (table[table["rate"] == rate] for table in (readings, behaviour))
    steps = [
        step
        for step in sorted(readings["step"].unique())
        if step in (1, 5, 20) or step == readings["step"].max()
    ]
    rows = []
    for task, harmed in behaviour.groupby("task", sort=False):
        drift = readings[readings["task"] == task]
        rows.append(
            [
                str(task),
                *(cell(mean_of(drift[drift["step"] == step], "alignment")) for step in steps),
                cell(mean_of(harmed, "harmfulness")),
            ]
        )
    columns = ["benign task", *(f"alignment at step {step}" for step in steps), "harmfulness at the end"]
    return Table(f"Benign tasks without a guard, at {rate:g} times the recipe's learning rate", columns, rows)


def _foreseen_table(tables: StudyTables) -> Table:
    def text(row: pd.Series, name: str) -> str:
        return (
            ""
            if np.isnan(row[name])
            else f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
        )

    table = tables["foreseen"]
    rows = [
        [
            str(row["step"]),
            PREDICTORS[row["predictor"]],
            text(row, "auroc"),
            text(row, "lead"),
            text(row, "rank"),
        ]
        for _, row in table.iterrows()
    ]
    n, harmed = int(table["n_runs"].iloc[0]), int(table["n_harmed"].iloc[0])
    heading = f"Foreseeing harm: {harmed} of {n} runs answer more than {HARMED:.0%} of the harmful prompts at the end"
    return Table(
        heading,
        [
            "step",
            "predictor",
            "area under the ROC curve",
            "alignment's minus it",
            "rank correlation with harmfulness",
        ],
        rows,
    )


def _failure_table(tables: StudyTables) -> Table:
    rows = [
        [
            str(row["method"]),
            _strength(float(row["strength"] or np.nan)),
            str(row["seed"]),
            str(row["message"]),
        ]
        for _, row in tables["failures"].iterrows()
    ]
    return Table("Runs that failed", ["method", "strength", "seed", "message"], rows)
