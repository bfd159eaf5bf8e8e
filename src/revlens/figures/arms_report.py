"""The report of the arms: does fine-tuning on harmless data undo alignment along v_rev?"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from revlens.causal import PARTS, action_label
from revlens.experiment import (
    ASSOCIATION_SCOPES,
    PAIRS,
    PAPERS_SPEARMAN,
    ArmTables,
    ExperimentConfig,
    association_estimate,
    at_chosen,
    gap_over_runs,
    null_thresholds,
    share_of,
    start_note,
)
from revlens.figures.behaviour_plots import BEHAVIOUR_PLOTS
from revlens.figures.causal_plots import CAUSAL_PLOTS, READOUT_PLOTS
from revlens.figures.cells import cell, mean_cell, mean_cells, measured
from revlens.figures.drift_plots import DRIFT_PLOTS
from revlens.figures.page import Table
from revlens.figures.replies import ReplyView
from revlens.figures.report import Report, Section
from revlens.figures.summary_plots import ARM_PLOTS, OVERVIEW_PLOTS
from revlens.results import MIN_RUNS
from revlens.statistics import Estimate

_SAMPLES = 4


def _lead(config: ExperimentConfig) -> str:
    arms = dict.fromkeys(arm.label for arm in config.fine_tunes())
    return (
        f"{config.subject.summary} Runs: {len(config.seeds)}. Arms: {', '.join(arms)}. "
        f"Benign updates: {config.steps[-1]}. Claims are those of Poppi & Lukas, arXiv 2606.28525."
    )


def _notes(config: ExperimentConfig, results: ArmTables) -> list[str]:
    caveat = config.subject.caveat
    notes = [caveat] if caveat else []
    if len(config.seeds) < MIN_RUNS:
        notes.append(f"Only {len(config.seeds)} runs: at least {MIN_RUNS} are needed for a verdict.")
    if missed := start_note(config, results["starts"]):
        notes.append(missed)
    notes += [
        f"Patching, pair {pair!r}: donor and recipient do not clearly differ over runs "
        f"(gap {gap} nats), so no share of it is claimed."
        for pair in PAIRS
        if (gap := gap_over_runs(results, pair)).holds_zero
    ]
    return notes


def _arm_table(results: ArmTables) -> Table:
    alignment, behaviour = results.over_layers(), results["behaviour"]
    last, measures = behaviour["step"].max(), measured(behaviour)
    rows = []
    for arm, group in behaviour[behaviour["step"] == last].groupby("arm", sort=False):
        aligned = alignment.loc[(alignment["arm"] == arm) & (alignment["step"] == last), "alignment"]
        rows.append([str(arm), mean_cell(aligned), *mean_cells(group, measures)])
    return Table(f"Arms at step {last}", ["arm", "alignment", *measures.values()], rows)


def _alignment_table(results: ArmTables) -> Table:
    estimates = {name: results.over_layers(estimate=name) for name in ("cross-fitted", "naive")}
    table = results["alignment"]
    table = table[(table["arm"] == "baseline") & (table["estimate"] == "cross-fitted")]
    by_layer = table.groupby(["step", "layer"])["alignment"].mean().unstack()
    rows = []
    for step, layers in by_layer.iterrows():
        cells = [
            mean_cell(t.loc[(t["arm"] == "baseline") & (t["step"] == step), "alignment"])
            for t in estimates.values()
        ]
        rows.append([str(step), *cells, *(f"{value:.2f}" for value in layers)])
    over_layers = [f"{name}, mean over layers" for name in estimates]
    columns = ["step", *over_layers, *(f"layer {layer}" for layer in by_layer.columns)]
    return Table("Alignment of the baseline", columns, rows)


def _exceedance_table(results: ArmTables) -> Table:
    heading = "Share of run-steps whose cosine is above the 99th percentile of each null"
    return Table(heading, *_exceedance(results["nulls"], "cosine", "p99", "exceeds"))


def _fraction_exceedance_table(results: ArmTables) -> Table:
    heading = "Share of run-steps whose reversion fraction is above the 99th percentile of each null"
    return Table(heading, *_exceedance(results["nulls"], "fraction", "fraction_p99", "fraction_exceeds"))


def _exceedance(
    table: pd.DataFrame, measure: str, p99: str, exceeds: str
) -> tuple[list[str], list[list[str]]]:
    arms, rows = table["arm"].unique(), []
    for null, group in table.groupby("null", sort=False):
        shares = group.groupby(["arm", "seed"], sort=False)[exceeds].mean()
        passing = null_thresholds(group.loc[group["arm"] == "baseline", p99])
        rows.append([str(null), passing, *(mean_cell(shares[arm]) for arm in arms)])
    return ["null", f"a {measure} of the baseline passes above", *arms], rows


def _direction_table(results: ArmTables) -> Table:
    """How well v_rev is known, and over how many dimensions prompts spread: few make nulls without power."""
    columns = {
        "gap": "length of the gap",
        "reliability": "reliability",
        "dimensions_gap": "dimensions of reference minus aligned over prompts",
        "dimensions_aligned": "of the aligned model's activations",
    }
    layers = results["direction"].groupby("layer")
    rows = [[str(layer), *mean_cells(group, columns)] for layer, group in layers]
    return Table("v_rev by layer", ["layer", *columns.values()], rows)


def _association_table(results: ArmTables) -> Table:
    """The paper's correlation is that of harmfulness with alignment across arms and steps."""
    table, rows = results["association"], []
    for (outcome, predictor), group in table.groupby(["outcome", "predictor"], sort=False):
        by_scope = group.set_index("scope")
        cells = [
            _cell_or_dash(association_estimate(by_scope.loc[scope], name))
            for name in ("spearman", "lead")
            for scope in ASSOCIATION_SCOPES
        ]
        paper = PAPERS_SPEARMAN if (outcome, predictor) == ("harmfulness", "alignment") else "—"
        rows.append([str(outcome), str(predictor), paper, *cells])
    leads = [f"alignment is closer by, {scope}" for scope in ASSOCIATION_SCOPES]
    columns = ["outcome", "goes with", "paper, all", *ASSOCIATION_SCOPES, *leads]
    return Table("What behaviour goes with (Spearman; runs resampled whole)", columns, rows)


def _patching_table(results: ArmTables) -> Table:
    """At the layer that was chosen on other prompts; the last layer of the model is never chosen."""
    rows = []
    for pair in PAIRS:
        gap = gap_over_runs(results, pair)
        for part in PARTS:
            of_part = at_chosen(results, pair, part)
            share = "no gap to share" if gap.holds_zero else cell(share_of(of_part))
            rows.append([pair, part, cell(gap), share, mean_cell(of_part["r2"])])
    columns = ["pair", "part", "gap (nats)", "share recovered", "R^2 over prompts"]
    return Table("Patching the last prompt token at the chosen layer", columns, rows)


def _cell_or_dash(estimate: Estimate | None) -> str:
    return "—" if estimate is None else cell(estimate)


def _phase_table(results: ArmTables) -> Table:
    table = results["phases"]
    measures = measured(table)
    rows = [[str(phase), *mean_cells(g, measures)] for phase, g in table.groupby("phase", sort=False)]
    return Table("Before the fine-tune", ["checkpoint", *measures.values()], rows)


def _outcome_table(results: ArmTables) -> Table:
    table = results["intervened"]
    table = table[table["role"] != "control"].fillna({"action": "as it is"})
    measures, rows = measured(table), []
    keys = ["model", "action", "dose", "role"]
    for (model, action, dose, role), group in table.groupby(keys, sort=False, dropna=False):
        layers = "" if role == "none" else str(role)
        rows.append([str(model), action_label(action, dose), layers, *mean_cells(group, measures)])
    columns = ["model", "action", "layers", *measures.values()]
    return Table("Behaviour under interventions along v_rev", columns, rows)


def _token_table(results: ArmTables) -> Table:
    """Of the first run, every layer: token tables of different seeds cannot be averaged."""
    table, rows = _first_run(results["readout_tokens"]).sort_values("rank"), []
    for layer, group in table.groupby("layer"):
        ends = (group.loc[group["end"] == end, "token"] for end in ("top", "bottom"))
        rows.append([str(layer), *(", ".join(repr(token) for token in tokens) for tokens in ends)])
    heading = "Tokens that v_rev of the first run promotes and demotes most"
    return Table(heading, ["layer", "promoted", "demoted"], rows)


def _samples(results: ArmTables) -> Table:
    """The first replies of the first run's baseline, before and after: chosen by position, not by content."""
    table = _first_run(results["replies"])
    table = table[(table["arm"] == "baseline") & (table["split"] == "behaviour")]
    before, after = (table[table["step"] == step].head(_SAMPLES) for step in (0, table["step"].max()))
    rows = [[p, b, a] for p, b, a in zip(before["prompt"], before["reply"], after["reply"], strict=True)]
    heading = "What it looks like: the first harmful-coded probes of the first run's baseline"
    return Table(heading, ["prompt", "before", "after"], rows)


def _first_run(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["seed"] == table["seed"].iloc[0]]


def _replies(results: ArmTables) -> list[ReplyView]:
    start, intervened = results["phase_replies"], results["intervened_replies"]
    return [
        ReplyView("arms", results["replies"]),
        ReplyView("before the fine-tune", start.assign(arm=start["phase"], step="")),
        ReplyView("under interventions", intervened.assign(arm=_interventions(intervened), step="")),
    ]


def _interventions(table: pd.DataFrame) -> list[str]:
    """Which model each reply is from: "tuned, clamp at 1" or, of a control, "tuned, clamp at 1, random 2"."""
    labels = []
    for row in table[["model", "action", "dose", "site", "role", "direction", "draw"]].itertuples():
        done = "as it is" if row.role == "none" else f"{action_label(row.action, row.dose)} at {row.site}"
        control = f", {row.direction} {row.draw}" if row.role == "control" else ""
        labels.append(f"{row.model}, {done}{control}")
    return labels


def _tables_of(*tables: Callable[[ArmTables], Table]) -> Callable[[ExperimentConfig, ArmTables], list[Table]]:
    return lambda config, results: [table(results) for table in tables]


ARMS_REPORT = Report(
    plan="arms",
    title="Does fine-tuning on harmless data undo alignment along v_rev?",
    lead=_lead,
    notes=_notes,
    overview=OVERVIEW_PLOTS,
    sections=(
        Section(
            "drift",
            "Drift",
            DRIFT_PLOTS,
            _tables_of(_alignment_table, _exceedance_table, _fraction_exceedance_table, _direction_table),
        ),
        Section("arms", "Arms", ARM_PLOTS, _tables_of(_arm_table, _association_table)),
        Section("causality", "Causality", CAUSAL_PLOTS, _tables_of(_patching_table, _outcome_table)),
        Section("behaviour", "Behaviour", BEHAVIOUR_PLOTS, _tables_of(_phase_table, _samples), _replies),
        Section("readout", "Readout", READOUT_PLOTS, _tables_of(_token_table)),
    ),
)
