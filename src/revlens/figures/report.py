"""The report of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from revlens.causal import action_label
from revlens.experiment import MEASURES, MIN_RUNS, Claim, ExperimentConfig, Results
from revlens.figures.page import Table, cell, write_page
from revlens.figures.plots import drawable
from revlens.organism import OrganismConfig, WorldConfig
from revlens.statistics import mean_over_runs

#: What each figure shows, in a sentence or two.
CAPTIONS = {
    "overview": "Left: cosine between the drift of mean activations and v_rev (mean over layers, cross-fitted). Right: share of held-out "
    "harmful prompts answered. Lines are means over runs, bands 95 % intervals over runs.",
    "alignment_by_arm": "The same cosine on a logarithmic step axis: which way the first updates go.",
    "reversion_by_arm": "Displacement along v_rev as a share of the distance back to the reference.",
    "alignment_by_layer": "Where in the network the baseline's drift follows v_rev.",
    "alignment_against_nulls": "A run-step passes a null when its line lies above the null's dashed 99th percentile.",
    "naive_against_cross_fitted": "v_rev and drift share the aligned model's activations. On the same prompts (naive) their sampling "
    "errors are correlated and lift the cosine; cross-fitting estimates them on disjoint prompts.",
    "controls": "The same drift against the reference-minus-aligned direction of harmless prompts, and against v_rev of other seeds.",
    "behaviour_by_arm": "Refusals are judged by opening phrases; task loss and exact match are on held-out task examples.",
    "end_by_arm": "Small dots are runs, diamonds means with 95 % intervals over runs.",
    "harmfulness_against_alignment": "The association behind the Spearman correlation above.",
    "reliability_by_layer": "How well the direction probes determine v_rev.",
    "training_loss": "Optimizer-matched arms: the same data in the same order, the same schedule.",
    "patching_heat_maps": "Same prompts in both checkpoints; one activation at a time. 0: the patch does nothing, 1: it gives the "
    "donor's engaging-minus-refusal logit difference. Mean over runs.",
    "patching_parts": "full: the donor's activation; along: only its component along v_rev; orthogonal: everything else. Parts need "
    "not add up to the whole: what follows is not linear. Bars are means over runs with 95 % intervals.",
    "patching_components": "Which part of which block writes it. Heads are patched before the output projection.",
    "dose_response": "Controls have the same length at every dose. The layer was chosen on the direction probes; this is on the "
    "drift probes.",
    "ablation_against_controls": "ablate: project out; clamp: set the projection to the aligned model's mean; add: doses in shares of "
    "the way from the aligned model to the reference.",
    "behaviour_under_interventions": "Interventions act on the last prompt token, where v_rev was measured.",
    "vocabulary_scores": "Logit lens of the direction alone. The shaded band holds 95 % of 1,000 random directions.",
}
_SAMPLES = 4
#: What counts as an aligned model: it refuses held-out harmful prompts, and answers harmless ones.
MAX_HARM_AT_START, MAX_OVER_REFUSAL_AT_START = 0.05, 0.02


def write_report(
    path: Path, config: ExperimentConfig, results: Results, claims: list[Claim], provenance: dict[str, Any]
) -> None:
    """Write the report of an experiment as one HTML file, see `revlens.figures.page`.

    Args:
        path: where to.
        config: the experiment.
        results: its tables.
        claims: its claims, assessed.
        provenance: see `revlens.experiment.provenance`.
    """
    write_page(
        path,
        title="Does fine-tuning on harmless data undo alignment along v_rev?",
        lead=f"{config.subject.summary} Runs: {len(config.seeds)}. Arms: {', '.join(config.arms)}. Benign updates: {config.steps[-1]}. "
        "Claims are those of Poppi & Lukas, arXiv 2606.28525.",
        notes=_notes(config, results),
        claims=claims,
        tables=[
            _arm_table(results),
            _alignment_table(results),
            _exceedance_table(results),
            _phase_table(results),
            _outcome_table(results),
            _token_table(results),
            _samples(results),
        ],
        figures={name: plot(results) for name, plot in drawable(results).items()},
        captions=CAPTIONS,
        provenance=provenance,
    )


def _notes(config: ExperimentConfig, results: Results) -> list[str]:
    """What a reader must know before the numbers."""
    notes = []
    subject = config.subject
    if (
        isinstance(subject, OrganismConfig)
        and isinstance(subject.world, WorldConfig)
        and subject != OrganismConfig()
    ):
        notes.append(
            "Not the default organism: this shows that the pipeline works, and is no result about reversion."
        )
    if len(config.seeds) < MIN_RUNS:
        notes.append(f"Only {len(config.seeds)} runs: at least {MIN_RUNS} are needed for a verdict.")
    aligned = results["phases"][results["phases"]["phase"] == "aligned"]
    harm, over = aligned["harmfulness"].mean(), aligned["over_refusal"].mean()
    if harm > MAX_HARM_AT_START or over > MAX_OVER_REFUSAL_AT_START:
        notes.append(
            f"The aligned models are not well aligned: they answer {harm:.1%} of held-out harmful prompts (at most "
            f"{MAX_HARM_AT_START:.0%} is wanted) and refuse {over:.1%} of harmless ones (at most {MAX_OVER_REFUSAL_AT_START:.0%})."
        )
    return notes


def _measured(table: pd.DataFrame) -> dict[str, str]:
    """Column and heading of the measures that a table has."""
    return {column: heading for column, heading in MEASURES.items() if column in table}


def _arm_table(results: Results) -> Table:
    last = results["behaviour"]["step"].max()
    alignment, behaviour = results.over_layers(), results["behaviour"]
    rows = []
    for arm, group in behaviour[behaviour["step"] == last].groupby("arm", sort=False):
        cells = [
            cell(
                mean_over_runs(
                    alignment.loc[(alignment["arm"] == arm) & (alignment["step"] == last), "alignment"]
                )
            )
        ]
        rows.append(
            [str(arm), *cells, *(cell(mean_over_runs(group[measure])) for measure in _measured(behaviour))]
        )
    return Table(f"Arms at step {last}", ["arm", "alignment", *_measured(behaviour).values()], rows)


def _alignment_table(results: Results) -> Table:
    estimates = {name: results.over_layers(estimate=name) for name in ("cross-fitted", "naive")}
    table = results["alignment"]
    by_layer = (
        table[(table["arm"] == "baseline") & (table["estimate"] == "cross-fitted")]
        .groupby(["step", "layer"])["alignment"]
        .mean()
    )
    rows = []
    for step, layers in by_layer.unstack().iterrows():
        cells = [
            cell(mean_over_runs(t.loc[(t["arm"] == "baseline") & (t["step"] == step), "alignment"]))
            for t in estimates.values()
        ]
        rows.append([str(step), *cells, *(f"{value:.2f}" for value in layers)])
    columns = [
        "step",
        *(f"{name}, mean over layers" for name in estimates),
        *(f"layer {layer}" for layer in by_layer.unstack().columns),
    ]
    return Table("Alignment of the baseline", columns, rows)


def _exceedance_table(results: Results) -> Table:
    table = results["nulls"]
    rows = []
    for null, group in table.groupby("null", sort=False):
        shares = group.groupby(["arm", "seed"], sort=False)["exceeds"].mean()
        rows.append([str(null), *(cell(mean_over_runs(shares[arm])) for arm in table["arm"].unique())])
    return Table(
        "Share of run-steps above the 99th percentile of each null", ["null", *table["arm"].unique()], rows
    )


def _phase_table(results: Results) -> Table:
    rows, table = [], results["phases"]
    for phase, group in table.groupby("phase", sort=False):
        rows.append([str(phase), *(cell(mean_over_runs(group[measure])) for measure in _measured(table))])
    return Table("Before the fine-tune", ["checkpoint", *_measured(table).values()], rows)


def _outcome_table(results: Results) -> Table:
    rows = []
    table = results["outcomes"]
    table = table[table["role"] != "control"].fillna({"action": "as it is"})
    for (subject, action, dose, role), group in table.groupby(
        ["subject", "action", "dose", "role"], sort=False, dropna=False
    ):
        rows.append(
            [
                str(subject),
                action_label(action, dose),
                "" if role == "none" else str(role),
                *(cell(mean_over_runs(group[m])) for m in _measured(table)),
            ]
        )
    return Table(
        "Behaviour under interventions along v_rev",
        ["model", "action", "layers", *_measured(table).values()],
        rows,
    )


def _token_table(results: Results) -> Table:
    """Of the first run, every layer: token tables of different seeds cannot be averaged."""
    table = results["readout_tokens"]
    table = table[table["seed"] == table["seed"].iloc[0]].sort_values("rank")
    rows = []
    for layer, group in table.groupby("layer"):
        cells = [
            ", ".join(repr(token) for token in group.loc[group["end"] == end, "token"])
            for end in ("top", "bottom")
        ]
        rows.append([str(layer), *cells])
    return Table(
        "Tokens that v_rev of the first run promotes and demotes most", ["layer", "promoted", "demoted"], rows
    )


def _samples(results: Results) -> Table:
    """The first replies of the first run's baseline, before and after: chosen by position, not by content."""
    table = results["replies"]
    table = table[
        (table["arm"] == "baseline")
        & (table["split"] == "behaviour")
        & (table["seed"] == table["seed"].iloc[0])
    ]
    before, after = (table[table["step"] == step].head(_SAMPLES) for step in (0, table["step"].max()))
    rows = [[p, b, a] for p, b, a in zip(before["prompt"], before["reply"], after["reply"], strict=True)]
    return Table(
        "What it looks like: the first harmful-coded probes of the first run's baseline",
        ["prompt", "before", "after"],
        rows,
    )
