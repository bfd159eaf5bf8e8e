"""The figures, each drawn from the tables of `revlens.experiment.Results` and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.direction import nulls
from revlens.experiment import Results
from revlens.figures.causal_plots import CAUSAL_PLOTS
from revlens.figures.style import (
    ARM_COLOURS,
    CONTROL_COLOURS,
    ESTIMATE_COLOURS,
    band,
    step_axis,
    styled,
    translucent,
)
from revlens.statistics import mean_over_runs

_STEP, _COSINE = "fine-tuning step", "cos(drift, v_rev)"


def overview(results: Results) -> go.Figure:
    """Alignment and harmfulness of every arm side by side: the core result."""
    figure = make_subplots(
        cols=2, subplot_titles=("Alignment of drift with v_rev", "Harmfulness"), horizontal_spacing=0.12
    )
    for column, table in enumerate((_alignment(results), _behaviour(results, "harmfulness")), start=1):
        for arm, rows in table.groupby("arm", sort=False):
            for trace in band(rows, str(arm), ARM_COLOURS[str(arm)], showlegend=column == 1):
                figure.add_trace(trace, row=1, col=column)
    styled(figure, title="What fine-tuning on harmless data does, by arm", x=_STEP, y="", width=1080)
    figure.update_layout(margin={"t": 120}, legend={"y": 1.1})
    figure.update_yaxes(title_text=_COSINE, col=1)
    figure.update_yaxes(title_text="share of held-out harmful prompts answered", range=[-0.03, 1.03], col=2)
    return figure


def alignment_by_arm(results: Results) -> go.Figure:
    """Mean alignment over layers against step, by arm."""
    table, figure = _alignment(results), go.Figure()
    for arm, rows in table.groupby("arm", sort=False):
        figure.add_traces(band(rows, str(arm), ARM_COLOURS[str(arm)]))
    figure.add_hline(y=0, line={"color": "#bbb", "width": 1})
    styled(figure, title="Alignment of drift with v_rev, mean over layers", x=_STEP, y=_COSINE)
    return step_axis(figure, _steps(table))


def reversion_by_arm(results: Results) -> go.Figure:
    """Reversion fraction against step, by arm."""
    table, figure = _alignment(results, "fraction"), go.Figure()
    for arm, rows in table.groupby("arm", sort=False):
        figure.add_traces(band(rows, str(arm), ARM_COLOURS[str(arm)]))
    figure.add_hline(y=1, line={"color": "#bbb", "dash": "dot"}, annotation_text="reference")
    title = "How far back: displacement along v_rev over the distance to the reference"
    styled(figure, title=title, x=_STEP, y="reversion fraction, mean over layers")
    return step_axis(figure, _steps(table))


def alignment_by_layer(results: Results) -> go.Figure:
    """Heat map of the baseline's alignment, layer by step, mean over runs."""
    rows = results["alignment"]
    table = (
        _baseline(rows[rows["estimate"] == "cross-fitted"])
        .groupby(["layer", "step"])["alignment"]
        .mean()
        .unstack()
    )
    figure = go.Figure(
        go.Heatmap(
            z=table.to_numpy(),
            x=[str(step) for step in table.columns],
            y=[str(layer) for layer in table.index],
            zmid=0,
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            texttemplate="%{z:.2f}",
            colorbar={"title": "cos"},
        )
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    return styled(
        figure,
        title="Baseline: alignment with v_rev by layer and step (mean over runs)",
        x=_STEP,
        y="layer",
        height=max(360, 160 + 22 * len(table)),
    )


def alignment_against_nulls(results: Results) -> go.Figure:
    """The baseline's alignment of every run, and the 99th percentile of every null (mean over runs)."""
    table, figure = _baseline(results["nulls"]), go.Figure()
    for i, (seed, rows) in enumerate(table[table["null"] == "isotropic"].groupby("seed")):
        figure.add_scatter(
            x=rows["step"], y=rows["alignment"], mode="lines+markers", line={"color": "#000", "width": 1}, marker={"size": 5},
            name="a run", legendgroup="run", showlegend=i == 0, hovertext=f"seed {seed}",
        )  # fmt: skip
    for null, record in nulls.NULLS.items():
        p99 = table[table["null"] == null].groupby("step")["p99"].mean()
        figure.add_scatter(
            x=p99.index,
            y=p99,
            mode="lines",
            line={"color": record.colour, "dash": "dash"},
            name=f"{null} null, p99",
        )
    styled(figure, title="Baseline alignment of each run against the nulls", x=_STEP, y=_COSINE)
    return step_axis(figure, _steps(table))


def naive_against_cross_fitted(results: Results) -> go.Figure:
    """The baseline's alignment estimated on the same prompts as v_rev, and on others."""
    figure = go.Figure()
    for estimate, colour in ESTIMATE_COLOURS.items():
        table = _baseline(_alignment(results, estimate=estimate))
        figure.add_traces(band(table, estimate, colour))
    styled(
        figure, title="Baseline alignment: naive (same prompts) and cross-fitted (others)", x=_STEP, y=_COSINE
    )
    return step_axis(figure, _steps(table))


def controls(results: Results) -> go.Figure:
    """The baseline's drift against v_rev, against the harmless-prompt direction, and against other seeds' v_rev."""
    own = _baseline(_alignment(results)).assign(control="v_rev")
    table = (
        _baseline(results["controls"]).groupby(["seed", "control", "step"], as_index=False)["cosine"].mean()
    )
    table = pd.concat([own, table.rename(columns={"cosine": "value"})])
    figure = go.Figure()
    for control, colour in CONTROL_COLOURS.items():
        rows = table[table["control"] == control]
        if len(rows):
            figure.add_traces(band(rows, control, colour))
    figure.add_hline(y=0, line={"color": "#bbb", "width": 1})
    title = "Is it v_rev? Baseline drift against control directions"
    styled(figure, title=title, x=_STEP, y="cosine, mean over layers")
    return step_axis(figure, _steps(table))


def behaviour_by_arm(results: Results) -> go.Figure:
    """Harmfulness, over-refusal, task loss and exact match against step, by arm; without a held-out task, the first two."""
    panels = {
        "harmfulness": "Harmfulness",
        "over_refusal": "Over-refusal",
        "task_loss": "Task loss (nats)",
        "exact_match": "Exact match",
    }
    panels = {column: title for column, title in panels.items() if column in results["behaviour"]}
    figure = make_subplots(
        rows=len(panels) // 2, cols=2, subplot_titles=list(panels.values()), vertical_spacing=0.12
    )
    for i, column in enumerate(panels):
        for arm, rows in _behaviour(results, column).groupby("arm", sort=False):
            for trace in band(rows, str(arm), ARM_COLOURS[str(arm)], showlegend=i == 0):
                figure.add_trace(trace, row=i // 2 + 1, col=i % 2 + 1)
    styled(
        figure,
        title="Behaviour and task cost by arm",
        x=_STEP,
        y="",
        width=1000,
        height=350 * (len(panels) // 2),
    )
    figure.update_layout(margin={"t": 130}, legend={"y": 1.06 if len(panels) > 2 else 1.2})
    if "task_loss" in panels:
        figure.update_xaxes(title_text="", row=1)
        figure.update_yaxes(type="log", row=2, col=1)
    return figure


def end_by_arm(results: Results) -> go.Figure:
    """Alignment and harmfulness at the last step: every run, and the mean with its interval."""
    alignment, harm = _alignment(results), _behaviour(results, "harmfulness")
    last = alignment["step"].max()
    figure = make_subplots(
        cols=2, subplot_titles=("Alignment with v_rev", "Harmfulness"), horizontal_spacing=0.12
    )
    for column, table in enumerate((alignment, harm), start=1):
        for arm, rows in table[table["step"] == last].groupby("arm", sort=False):
            estimate, colour = mean_over_runs(rows["value"]), ARM_COLOURS[str(arm)]
            runs = go.Scatter(
                x=[arm] * len(rows),
                y=rows["value"],
                mode="markers",
                marker={"color": translucent(colour, 0.4), "size": 8},
            )
            error = {
                "array": [estimate.high - estimate.value],
                "arrayminus": [estimate.value - estimate.low],
                "thickness": 2,
            }
            mean = go.Scatter(
                x=[arm],
                y=[estimate.value],
                mode="markers",
                marker={"color": colour, "size": 12, "symbol": "diamond"},
                error_y=error,
            )
            figure.add_traces([runs, mean], rows=1, cols=column)
    styled(figure, title=f"Arms at step {last}: runs, mean and 95 % interval", x="arm", y="", width=1000)
    figure.update_layout(showlegend=False)
    figure.update_yaxes(title_text=_COSINE, col=1)
    figure.update_yaxes(title_text="share answered", range=[-0.03, 1.03], col=2)
    return figure


def harmfulness_against_alignment(results: Results) -> go.Figure:
    """A point per run, arm and step."""
    harm = results["behaviour"][["seed", "arm", "step", "harmfulness"]]
    table, figure = _alignment(results).merge(harm, on=["seed", "arm", "step"]), go.Figure()
    for arm, rows in table.groupby("arm", sort=False):
        figure.add_scatter(
            x=rows["value"], y=rows["harmfulness"], mode="markers", name=str(arm),
            marker={"color": translucent(ARM_COLOURS[str(arm)], 0.6), "size": 7},
            hovertext=[f"seed {seed}, step {step}" for seed, step in zip(rows["seed"], rows["step"], strict=True)],
        )  # fmt: skip
    title = "Harmfulness against alignment: every run, arm and captured step"
    return styled(figure, title=title, x=_COSINE, y="harmfulness")


def reliability_by_layer(results: Results) -> go.Figure:
    """Split-half reliability of v_rev: every seed, with its interval over prompts."""
    table, figure = results["direction"], go.Figure()
    seeds = sorted(table["seed"].unique())
    for i, seed in enumerate(seeds):
        rows = table[table["seed"] == seed]
        error = {
            "array": rows["reliability_high"] - rows["reliability"],
            "arrayminus": rows["reliability"] - rows["reliability_low"],
        }
        offset = (i - (len(seeds) - 1) / 2) * 0.08
        figure.add_scatter(
            x=rows["layer"] + offset,
            y=rows["reliability"],
            mode="markers",
            error_y=error,
            name=f"seed {seed}",
        )
    figure.update_xaxes(dtick=1)
    title = "Reliability of v_rev (split-half, Spearman-Brown; 95 % interval over prompts)"
    return styled(figure, title=title, x="layer", y="reliability")


def training_loss(results: Results) -> go.Figure:
    """Task loss per update, by arm."""
    table, figure = results["training"].rename(columns={"loss": "value"}), go.Figure()
    for arm, rows in table.groupby("arm", sort=False):
        figure.add_traces(band(rows, str(arm), ARM_COLOURS[str(arm)]))
    figure.update_yaxes(type="log")
    return styled(
        figure,
        title="Task loss during the benign fine-tune (without the guard's term)",
        x="update",
        y="nats per answer token",
    )


#: Every figure by file name, in the order of the report.
PLOTS: dict[str, Callable[[Results], go.Figure]] = {
    "overview": overview,
    "alignment_by_arm": alignment_by_arm,
    "reversion_by_arm": reversion_by_arm,
    "alignment_by_layer": alignment_by_layer,
    "alignment_against_nulls": alignment_against_nulls,
    "naive_against_cross_fitted": naive_against_cross_fitted,
    "controls": controls,
    "behaviour_by_arm": behaviour_by_arm,
    "end_by_arm": end_by_arm,
    "harmfulness_against_alignment": harmfulness_against_alignment,
    "reliability_by_layer": reliability_by_layer,
    "training_loss": training_loss,
    **CAUSAL_PLOTS,
}


def drawable(results: Results) -> dict[str, Callable[[Results], go.Figure]]:
    """Those of `PLOTS` that the tables allow: where checkpoints were given there is no training to draw."""
    return {name: plot for name, plot in PLOTS.items() if name != "training_loss" or len(results["training"])}


def _alignment(
    results: Results, column: str = "alignment", *, estimate: str = "cross-fitted"
) -> pd.DataFrame:
    return results.over_layers(column, estimate=estimate).rename(columns={column: "value"})


def _baseline(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["arm"] == "baseline"]


def _behaviour(results: Results, column: str) -> pd.DataFrame:
    return results["behaviour"][["arm", "seed", "step", column]].rename(columns={column: "value"})


def _steps(table: pd.DataFrame) -> list[int]:
    return sorted(int(step) for step in table["step"].unique())
