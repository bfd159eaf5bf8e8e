"""The figures of the study of guards, each drawn from `revlens.study.StudyTables` and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.experiment import OVER_REFUSAL, PERPLEXITY_FACTOR
from revlens.figures.style import band, styled, translucent
from revlens.statistics import Estimate, mean_over_runs
from revlens.study import (
    PREDICTORS,
    StudyTables,
    against_baseline,
    carried,
    chosen_on_other_seeds,
    mean_of,
    settings,
)
from revlens.training import METHODS

_HARM = "harmfulness (share of held-out harmful prompts answered)"
_COST = (0.01, 0.1, 1, 5, 10, 50)  # per cent of perplexity; less than the first is drawn at the first
_PREDICTOR_COLOURS = {
    "alignment": "#000000",
    "fraction": "#0072B2",
    "drift_norm": "#E69F00",
    "kl": "#CC79A7",
    "loss_drop": "#999999",
}


def _errors(estimates: list[Estimate]) -> dict[str, object]:
    return {
        "array": [e.high - e.value for e in estimates],
        "arrayminus": [e.value - e.low for e in estimates],
        "thickness": 1,
        "width": 2,
    }


def trade_off(tables: StudyTables) -> go.Figure:
    """Harmfulness against task cost: every method at every strength, and the front of those that none beats in both."""
    table, figure, points = against_baseline(tables), go.Figure(), []
    for method, rows in table.groupby("method", sort=False):
        estimates = [
            (s.strength, _added_cost(mean_of(r, "perplexity_ratio")), mean_of(r, "harmfulness"))
            for s, r in settings(rows)
        ]
        points += [(cost.value, harm.value) for _, cost, harm in estimates]
        colour, symbol = METHODS[str(method)].colour, METHODS[str(method)].marker
        figure.add_scatter(
            x=[cost.value for _, cost, _ in estimates],
            y=[harm.value for _, _, harm in estimates],
            error_x=_errors([cost for _, cost, _ in estimates]) | {"color": translucent(colour, 0.35)},
            error_y=_errors([harm for _, _, harm in estimates]) | {"color": translucent(colour, 0.35)},
            mode="lines+markers",
            line={"color": translucent(colour, 0.5), "width": 1},
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=str(method),
            text=["" if np.isnan(strength) else f"strength {strength:g}" for strength, _, _ in estimates],
            hovertemplate="%{text}<br>perplexity +%{x:.3g} %, harmfulness %{y:.3f}",
        )
    x, y = zip(*_front(points), strict=True)
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": "#555", "dash": "dot", "shape": "hv"},
        name="front",
        hoverinfo="skip",
    )
    figure.add_vline(x=100 * (PERPLEXITY_FACTOR - 1), line={"color": "#bbb", "width": 1})
    ticks = [f"≤ {_COST[0]:g} %", *(f"{cost:g} %" for cost in _COST[1:])]
    figure.update_xaxes(type="log", tickvals=list(_COST), ticktext=ticks)
    figure.update_yaxes(range=[-0.03, 1.05])
    title = (
        "Harmfulness against task cost: methods over a grid of strengths, means and 95 % intervals over runs"
    )
    styled(figure, title=title, x="task perplexity above the baseline's", y=_HARM, width=1000, height=620)
    return _legend_right(figure)


def _added_cost(ratio: Estimate) -> Estimate:
    """Per cent above the baseline's perplexity, for a logarithmic axis."""
    value, low, high = (max(100 * (x - 1), _COST[0]) for x in (ratio.value, ratio.low, ratio.high))
    return Estimate(value, low, high, ratio.n)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in cost and harm, by cost."""
    best, front = np.inf, []
    for cost, harm in sorted(points):
        if harm < best:
            best = harm
            front.append((cost, harm))
    return front


def chosen_methods(tables: StudyTables) -> go.Figure:
    """Every method at the strengths that other seeds choose: harm, over-refusal and task, runs and means."""
    table = chosen_on_other_seeds(tables)
    panels = {
        "harmfulness": "Harmfulness",
        "over_refusal": "Over-refusal",
        "perplexity_ratio": "Perplexity ratio",
    }
    panels = {column: title for column, title in panels.items() if column in table}
    figure = make_subplots(
        cols=len(panels), subplot_titles=list(panels.values()), shared_yaxes=True, horizontal_spacing=0.04
    )
    for column, measure in enumerate(panels, start=1):
        for method, rows in table.groupby("method", sort=False):
            colour, symbol = METHODS[str(method)].colour, METHODS[str(method)].marker
            estimate = mean_of(rows, measure)
            runs = go.Scatter(
                x=rows[measure],
                y=[method] * len(rows),
                mode="markers",
                marker={"color": translucent(colour, 0.35), "size": 7},
            )
            mean = go.Scatter(
                x=[estimate.value],
                y=[method],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11},
                error_x=_errors([estimate]),
            )
            figure.add_traces([runs, mean], rows=1, cols=column)
        if measure != "harmfulness":
            limit = OVER_REFUSAL if measure == "over_refusal" else PERPLEXITY_FACTOR
            figure.add_vline(x=limit, line={"color": "#bbb", "width": 1, "dash": "dot"}, col=column)
    styled(
        figure,
        title="Each method at the strength that the other seeds choose",
        x="",
        y="",
        width=1080,
        height=560,
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(showlegend=False, margin={"l": 110, "t": 100})
    return figure


def displacement_and_harm(tables: StudyTables) -> go.Figure:
    """Does less motion along v_rev go with less harm across methods? A point per method and strength."""
    table, figure = against_baseline(tables), go.Figure()
    for method, rows in table[table["method"] != "push"].groupby("method", sort=False):
        colour, symbol = METHODS[str(method)].colour, METHODS[str(method)].marker
        groups = list(settings(rows))
        moved, harm = ([mean_of(r, column) for _, r in groups] for column in ("fraction", "harmfulness"))
        figure.add_scatter(
            x=[e.value for e in moved],
            y=[e.value for e in harm],
            error_x=_errors(moved) | {"color": translucent(colour, 0.3)},
            error_y=_errors(harm) | {"color": translucent(colour, 0.3)},
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=str(method),
            text=[f"strength {s.strength:g}" for s, _ in groups],
        )
    figure.add_vline(x=0, line={"color": "#bbb", "width": 1})
    figure.update_yaxes(range=[-0.03, 1.05])
    title = "Displacement along v_rev and harmfulness after the last update (without push)"
    styled(figure, title=title, x="reversion fraction, mean over layers", y=_HARM, width=1000, height=560)
    return _legend_right(figure)


def routes(tables: StudyTables) -> go.Figure:
    """Harmfulness of each guarded model as it is, and with its place along v_rev set to its own mean or to the baseline's."""
    places = carried(tables)
    chosen = chosen_on_other_seeds(tables)[["seed", "method", "strength"]]
    rows = chosen.merge(places, on=["seed", "method", "strength"])
    columns = {
        "as_it_is": ("as it is", "#000000", "circle"),
        "own": ("clamped to its own mean along v_rev", "#0072B2", "circle-open"),
        "baseline": ("clamped to the baseline's mean along v_rev", "#D55E00", "diamond"),
        "random": ("clamped to the baseline's means along random directions", "#999999", "x"),
    }
    models = [name for name in rows["model"].unique() if name not in ("push", "aligned")]
    models = ["aligned", *models] if "aligned" in set(rows["model"]) else models
    figure = go.Figure()
    for i, (column, (label, colour, symbol)) in enumerate(columns.items()):
        estimates = [mean_of(rows[rows["model"] == model], column) for model in models]
        figure.add_scatter(
            x=[e.value for e in estimates],
            y=[position + (i - 1.5) * 0.17 for position in range(len(models))],
            error_x=_errors(estimates),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=label,
        )
    figure.update_yaxes(tickvals=list(range(len(models))), ticktext=models, autorange="reversed")
    styled(
        figure,
        title="Does a guard act by where the model lies along v_rev?",
        x="harmfulness (short replies)",
        y="",
        width=900,
        height=160 + 46 * len(models),
    )
    figure.update_layout(margin={"l": 110, "t": 130}, legend={"orientation": "h", "y": 1.02})
    return figure


def lasting(tables: StudyTables) -> go.Figure:
    """Longer runs: harmfulness, reversion fraction and task loss."""
    behaviour, readings = tables.part("behaviour", "lasting"), tables.part("readings", "lasting")
    panels = [
        ("harmfulness", behaviour, "Harmfulness"),
        ("fraction", readings, "Reversion fraction"),
        ("over_refusal", behaviour, "Over-refusal"),
    ]
    return _courses(panels, "Longer runs", None)


def released(tables: StudyTables) -> go.Figure:
    """The guard is switched off on the way: does the model revert then?"""
    base = against_baseline(tables, "released")
    last, switched = base["step"].max(), int(base["guarded"].min())

    def with_baseline(table: str) -> pd.DataFrame:
        long = tables.part(table, "lasting")
        return pd.concat(
            [long[(long["method"] == "baseline") & (long["step"] <= last)], tables.part(table, "released")]
        )

    behaviour, readings = with_baseline("behaviour"), with_baseline("readings")
    panels = [("harmfulness", behaviour, "Harmfulness"), ("fraction", readings, "Reversion fraction")]
    return _courses(panels, f"Guards switched off at step {switched}", switched)


def _courses(panels: list[tuple[str, pd.DataFrame, str]], title: str, switched: int | None) -> go.Figure:
    figure = make_subplots(
        cols=len(panels), subplot_titles=[name for _, _, name in panels], horizontal_spacing=0.08
    )
    for i, (column, table, _) in enumerate(panels, start=1):
        for method, rows in table.rename(columns={column: "value"}).groupby("method", sort=False):
            for trace in band(rows, str(method), METHODS[str(method)].colour, showlegend=i == 1):
                figure.add_trace(trace, row=1, col=i)
        if column != "fraction":
            figure.update_yaxes(range=[-0.03, 1.03], col=i)
        if switched is not None:
            figure.add_vline(x=switched, line={"color": "#888", "dash": "dash", "width": 1}, col=i)
    styled(figure, title=title, x="fine-tuning step", y="", width=1080, height=430)
    figure.update_layout(margin={"t": 120}, legend={"y": 1.12})
    return figure


def early_warning(tables: StudyTables) -> go.Figure:
    """Area under the ROC curve of each predictor at each early step."""
    table, figure = tables["foreseen"], go.Figure()
    steps = sorted(table["step"].unique())
    for i, (name, rows) in enumerate(table.dropna(subset=["auroc"]).groupby("predictor", sort=False)):
        figure.add_scatter(
            x=[steps.index(step) + (i - 2) * 0.1 for step in rows["step"]],
            y=rows["auroc"],
            error_y={
                "array": rows["auroc_high"] - rows["auroc"],
                "arrayminus": rows["auroc"] - rows["auroc_low"],
                "thickness": 1,
            },
            mode="markers",
            marker={"color": _PREDICTOR_COLOURS[str(name)], "size": 9},
            name=PREDICTORS[str(name)],
        )
    figure.add_hline(y=0.5, line={"color": "#bbb", "dash": "dot"}, annotation_text="chance")
    figure.update_xaxes(tickvals=list(range(len(steps))), ticktext=[f"step {step}" for step in steps])
    figure.update_yaxes(range=[0, 1.03])
    n, harmed = int(table["n_runs"].iloc[0]), int(table["n_harmed"].iloc[0])
    title = f"Who will be harmed? Early readings against harm at the end ({harmed} of {n} runs)"
    styled(figure, title=title, x="", y="area under the ROC curve", width=920, height=500)
    figure.update_layout(margin={"t": 130})
    return figure


def early_readings(tables: StudyTables) -> go.Figure:
    """Harm at the end against alignment early, a point per run, by benign task."""
    readings = tables.part("readings", "early")
    step = max(s for s in readings["step"].unique() if s <= 20)
    keys = ["seed", "task", "rate"]
    early = readings[readings["step"] == step][[*keys, "alignment"]]
    table = early.merge(tables.part("behaviour", "early")[[*keys, "harmfulness"]], on=keys)
    figure = go.Figure()
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for colour, (task, rows) in zip(colours, table.groupby("task", sort=False), strict=False):
        figure.add_scatter(
            x=rows["alignment"],
            y=rows["harmfulness"],
            mode="markers",
            marker={"color": translucent(colour, 0.6), "size": 6 + 4 * np.sqrt(rows["rate"])},
            name=str(task),
            text=[
                f"seed {seed}, rate x {rate:g}" for seed, rate in zip(rows["seed"], rows["rate"], strict=True)
            ],
        )
    title = f"Alignment at step {step} and harm at the end: a point per run, larger for higher learning rates"
    return styled(figure, title=title, x="cos(drift, v_rev)", y="harmfulness at the end")


def transfer(tables: StudyTables) -> go.Figure:
    """Block along v_rev from elsewhere, and how near that lies to the seed's own."""
    own = against_baseline(tables)
    moved = tables.part("behaviour", "transfer")
    method, strength = moved["method"].iloc[0], moved["strength"].iloc[0]
    arms = {
        "baseline": own[own["method"] == "baseline"],
        "own": own[(own["method"] == method) & (own["strength"] == strength)],
    }
    arms |= {str(source): rows for source, rows in moved.groupby("direction", sort=False)}
    figure = make_subplots(
        cols=2,
        subplot_titles=(
            f"Harmfulness under {method}, by where v_rev is from",
            "Cosine with the seed's own v_rev",
        ),
    )
    for source, rows in arms.items():
        estimate = mean_of(rows, "harmfulness")
        figure.add_scatter(
            x=[source] * len(rows),
            y=rows["harmfulness"],
            mode="markers",
            marker={"color": "#bbb", "size": 7},
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=[source],
            y=[estimate.value],
            error_y=_errors([estimate]),
            mode="markers",
            marker={"color": "#000", "symbol": "diamond", "size": 11},
            row=1,
            col=1,
        )
    for source, rows in tables["directions"].groupby("source", sort=False):
        by_layer = [mean_over_runs(layer["cosine"].to_numpy(float)) for _, layer in rows.groupby("layer")]
        figure.add_scatter(
            x=sorted(rows["layer"].unique()),
            y=[e.value for e in by_layer],
            error_y=_errors(by_layer),
            name=str(source),
            row=1,
            col=2,
        )
    styled(figure, title="Transfer of v_rev", x="", y="", width=1080, height=430)
    for trace in figure.data:
        trace.showlegend = trace.name in set(tables["directions"]["source"])
    figure.update_xaxes(title_text="layer", dtick=1, col=2)
    figure.update_yaxes(range=[-0.03, 1.03], col=1)
    figure.update_layout(margin={"t": 120}, legend={"x": 0.55, "y": 1.1})
    return figure


def _legend_right(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        legend={"orientation": "v", "x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"}, margin={"r": 150}
    )
    return figure


#: Every figure by file name, in the order of the report, and which part of the study it needs.
STUDY_PLOTS: dict[str, tuple[str, Callable[[StudyTables], go.Figure]]] = {
    "trade_off": ("grid", trade_off),
    "chosen_methods": ("grid", chosen_methods),
    "displacement_and_harm": ("grid", displacement_and_harm),
    "routes": ("grid", routes),
    "lasting": ("lasting", lasting),
    "released": ("released", released),
    "early_warning": ("early", early_warning),
    "early_readings": ("early", early_readings),
    "transfer": ("transfer", transfer),
}


def drawable_study(tables: StudyTables) -> dict[str, Callable[[StudyTables], go.Figure]]:
    """Those of `STUDY_PLOTS` whose part of the study was run.

    The trade-off needs a task whose cost is measured, early warning runs with harm and runs without.
    """
    parts = set(tables["behaviour"]["part"])
    without = set() if "task_loss" in tables["behaviour"] else {"trade_off"}
    without |= {"early_warning"} if tables["foreseen"]["auroc"].isna().all() else set()
    return {name: plot for name, (part, plot) in STUDY_PLOTS.items() if part in parts and name not in without}
