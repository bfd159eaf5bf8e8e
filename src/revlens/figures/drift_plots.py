"""Figures of drift along v_rev: how far, where, and against nulls and controls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from revlens.experiment import PARTS, ArmTables
from revlens.figures.plot import Plot
from revlens.figures.sliders import maps_by_step
from revlens.figures.style import COSINE, STEP, null_colour, step_axis, style_of, styled
from revlens.figures.traces import add_methods, band, each_run, error_bars_in, heat_map

_ESTIMATE_COLOURS = {"cross-fitted": "#000000", "naive": "#E69F00"}
_PART_COLOURS = {
    "harmful": "#D55E00", "harmless": "#56B4E9", "separation": "#000000", "reference": "#999999",
}  # fmt: skip
_CONTROL_COLOURS = {"v_rev": "#000000", "harmless": "#56B4E9", "foreign": "#999999"}


def alignment_by_arm(results: ArmTables) -> go.Figure:
    """Mean alignment over layers against step, by arm."""
    table, figure = results.over_layers(), go.Figure()
    add_methods(figure, table, "alignment")
    figure.add_hline(y=0, line={"color": "#bbb", "width": 1})
    styled(figure, title="Alignment of drift with v_rev, mean over layers", x=STEP, y=COSINE)
    return step_axis(figure, _steps(table))


def reversion_by_arm(results: ArmTables) -> go.Figure:
    """Reversion fraction against step, by arm."""
    table, figure = results.over_layers("fraction"), go.Figure()
    add_methods(figure, table, "fraction")
    figure.add_hline(y=1, line={"color": "#bbb", "dash": "dot"}, annotation_text="reference")
    title = "How far back: displacement along v_rev over the distance to the reference"
    styled(figure, title=title, x=STEP, y="reversion fraction, mean over layers")
    return step_axis(figure, _steps(table))


def drift_by_part(results: ArmTables) -> go.Figure:
    """The baseline's reversion fraction on harmful and harmless prompts, of both, and of the reference."""
    rows, figure = _baseline(results["drift_parts"]), go.Figure()
    means = rows.groupby(["part", "seed", "step"], as_index=False)["fraction"].mean()
    for part, name in PARTS.items():
        own = means[means["part"] == part]
        if len(own):  # no reference is trained where the checkpoints are given
            figure.add_traces(band(own, "fraction", name, style_of(part, _PART_COLOURS)))
    figure.add_hline(y=0, line={"color": "#bbb", "width": 1})
    title = "Baseline: what of the way back is specific to harm?"
    styled(figure, title=title, x=STEP, y="reversion fraction, mean over layers")
    return step_axis(figure, _steps(means))


def alignment_by_layer(results: ArmTables) -> go.Figure:
    """Heat map of the baseline's alignment, layer by step, mean over runs."""
    rows = _baseline(results["alignment"])
    rows = rows[rows["estimate"] == "cross-fitted"]
    table = rows.groupby(["layer", "step"])["alignment"].mean().unstack()
    figure = go.Figure(heat_map(table, "cos"))
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    title = "Baseline: alignment with v_rev by layer and step (mean over runs)"
    return styled(figure, title=title, x=STEP, y="layer", height=max(360, 160 + 22 * len(table)))


def alignment_by_layer_and_arm(results: ArmTables) -> go.Figure:
    """Heat maps of the alignment, layer by arm, mean over runs: a slider chooses the step."""
    rows = results["alignment"]
    rows = rows[rows["estimate"] == "cross-fitted"]
    arms = list(rows["arm"].unique())
    # A matched control is captured at a few steps only: its column is empty at the others.
    maps = {
        int(str(step)): own.pivot_table("alignment", "layer", "arm", aggfunc="mean").reindex(columns=arms)
        for step, own in rows.groupby("step")
    }
    figure = maps_by_step(maps, "cos")
    figure.update_yaxes(type="category")
    height = max(460, 260 + 22 * rows["layer"].nunique())
    title = "Alignment with v_rev by layer and arm, step by step (mean over runs)"
    return styled(figure, title=title, x="", y="layer", height=height).update_layout(margin={"b": 110})


def alignment_against_nulls(results: ArmTables) -> go.Figure:
    """The baseline's alignment of every run, and the 99th percentile of every null (mean over runs)."""
    table, figure = _baseline(results["nulls"]), go.Figure()
    alignment = table.drop_duplicates(["seed", "step"])  # each null repeats it
    figure.add_traces(each_run(alignment, "step", "alignment", name="a run"))
    for null, rows in table.groupby("null", sort=False):
        p99, line = rows.groupby("step")["p99"].mean(), {"color": null_colour(str(null)), "dash": "dash"}
        figure.add_scatter(x=p99.index, y=p99, mode="lines", line=line, name=f"{null} null, p99")
    styled(figure, title="Baseline alignment of each run against the nulls", x=STEP, y=COSINE)
    return step_axis(figure, _steps(table))


def naive_against_cross_fitted(results: ArmTables) -> go.Figure:
    """The baseline's alignment estimated on the same prompts as v_rev, and on others."""
    figure = go.Figure()
    for estimate in results["alignment"]["estimate"].unique():
        table = _baseline(results.over_layers(estimate=estimate))
        figure.add_traces(band(table, "alignment", estimate, style_of(estimate, _ESTIMATE_COLOURS)))
    title = "Baseline alignment: naive (same prompts) and cross-fitted (others)"
    return step_axis(styled(figure, title=title, x=STEP, y=COSINE), _steps(table))


def controls(results: ArmTables) -> go.Figure:
    """The baseline's drift against v_rev, the harmless-prompt direction, and other seeds' v_rev."""
    own = _baseline(results.over_layers()).rename(columns={"alignment": "cosine"}).assign(control="v_rev")
    others = _baseline(results["controls"])
    means = others.groupby(["seed", "control", "step"], as_index=False)["cosine"].mean()
    table, figure = pd.concat([own, means]), go.Figure()
    for control in ("v_rev", *others["control"].unique()):
        rows, colour = table[table["control"] == control], style_of(control, _CONTROL_COLOURS)
        figure.add_traces(band(rows, "cosine", control, colour))
    figure.add_hline(y=0, line={"color": "#bbb", "width": 1})
    title = "Is it v_rev? Baseline drift against control directions"
    styled(figure, title=title, x=STEP, y="cosine, mean over layers")
    return step_axis(figure, _steps(table))


def reliability_by_layer(results: ArmTables) -> go.Figure:
    """Split-half reliability of v_rev: every seed, with its interval over prompts."""
    table, figure = results["direction"], go.Figure()
    seeds = sorted(table["seed"].unique())
    for i, seed in enumerate(seeds):
        rows, offset = table[table["seed"] == seed], (i - (len(seeds) - 1) / 2) * 0.08
        figure.add_scatter(
            x=rows["layer"] + offset, y=rows["reliability"], error_y=error_bars_in(rows, "reliability"),
            mode="markers", name=f"seed {seed}",
        )  # fmt: skip
    figure.update_xaxes(dtick=1)
    title = "Reliability of v_rev (split-half, Spearman-Brown; 95 % interval over prompts)"
    return styled(figure, title=title, x="layer", y="reliability")


def _baseline(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["arm"] == "baseline"]


def _steps(table: pd.DataFrame) -> list[int]:
    return sorted(int(step) for step in table["step"].unique())


#: In the order of the report.
DRIFT_PLOTS = (
    Plot(
        "alignment_by_arm",
        alignment_by_arm,
        "The same cosine on a logarithmic step axis: which way the first updates go.",
    ),
    Plot(
        "reversion_by_arm",
        reversion_by_arm,
        "Displacement along v_rev as a share of the distance back to the reference.",
    ),
    Plot(
        "drift_by_part",
        drift_by_part,
        "What harmless prompts share is not specific to harm; what the reference does on the same updates is "
        "the task's doing, whatever the alignment.",
    ),
    Plot(
        "alignment_by_layer",
        alignment_by_layer,
        "Where in the network the baseline's drift follows v_rev.",
    ),
    Plot(
        "alignment_by_layer_and_arm",
        alignment_by_layer_and_arm,
        "Where in the network each arm's drift follows v_rev; move the slider to watch it from step to step.",
    ),
    Plot(
        "alignment_against_nulls",
        alignment_against_nulls,
        "A run-step passes a null when its line lies above the null's dashed 99th percentile.",
    ),
    Plot(
        "naive_against_cross_fitted",
        naive_against_cross_fitted,
        "v_rev and drift share the aligned model's activations. On the same prompts (naive) their sampling "
        "errors are correlated and lift the cosine; cross-fitting estimates them on disjoint prompts.",
    ),
    Plot(
        "controls",
        controls,
        "The same drift against the reference-minus-aligned direction of harmless prompts, and against "
        "v_rev of other seeds.",
    ),
    Plot(
        "reliability_by_layer",
        reliability_by_layer,
        "How well the direction probes determine v_rev.",
    ),
)
