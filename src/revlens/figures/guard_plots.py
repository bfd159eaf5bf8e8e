"""Figures that compare guards after the last update: refusals, cost, motion along v_rev, routes, transfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.experiment import (
    GuardTables,
    against_baseline,
    chosen_on_other_seeds,
    mean_of,
    settings,
)
from revlens.experiment import routes as routes_of
from revlens.figures.plot import Plot
from revlens.figures.style import OUTCOME_COLOURS, method_colour, method_marker, styled, translucent
from revlens.figures.traces import THIN, error_bars, runs_and_mean
from revlens.results import OVER_REFUSAL, PERPLEXITY_FACTOR
from revlens.statistics import Estimate

_KEPT = "clean refusals (share of held-out harmful prompts)"
_COST = (0.01, 0.1, 1, 5, 10, 50)  # per cent of perplexity; less than the first is drawn at the first


def trade_off(tables: GuardTables) -> go.Figure:
    """Clean refusals against task cost of every setting, and the front of those that none beats in both."""
    table, figure = against_baseline(tables), go.Figure()
    for method, rows in table.groupby("method", sort=False):
        trace = _settings_of(str(method), rows, lambda own: _added_cost(mean_of(own, "perplexity_ratio")))
        line = {"color": translucent(method_colour(str(method)), 0.5), "width": 1}
        hover = "%{text}<br>perplexity +%{x:.3g} %, refusals %{y:.3f}"
        figure.add_trace(trace.update(mode="lines+markers", line=line, hovertemplate=hover))
    points = [point for trace in figure.data for point in zip(trace.x, trace.y, strict=True)]
    x, y = zip(*_front(points), strict=True)
    line = {"color": "#555", "dash": "dot", "shape": "hv"}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, name="front", hoverinfo="skip")
    figure.add_vline(x=100 * (PERPLEXITY_FACTOR - 1), line={"color": "#bbb", "width": 1})
    ticks = [f"≤ {_COST[0]:g} %", *(f"{cost:g} %" for cost in _COST[1:])]
    figure.update_xaxes(type="log", tickvals=list(_COST), ticktext=ticks)
    figure.update_yaxes(range=[-0.03, 1.05])
    title = "Clean refusals against task cost: a grid of strengths, means and 95 % intervals over runs"
    styled(figure, title=title, x="task perplexity above the baseline's", y=_KEPT, width=1000, height=620)
    return _legend_right(figure)


def _added_cost(ratio: Estimate) -> Estimate:
    """Per cent above the baseline's perplexity, for a logarithmic axis."""
    value, low, high = (max(100 * (x - 1), _COST[0]) for x in (ratio.value, ratio.low, ratio.high))
    return Estimate(value, low, high, ratio.n)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in cost and refusals, by cost."""
    best, front = -np.inf, []
    for cost, kept in sorted(points):
        if kept > best:
            best = kept
            front.append((cost, kept))
    return front


def chosen_methods(tables: GuardTables) -> go.Figure:
    """Every method at the strengths that other seeds choose: behaviour and task cost, runs and means."""
    table = chosen_on_other_seeds(tables)
    panels = {
        "refusal": "Clean refusals",
        "harmfulness": "Harmfulness",
        "over_refusal": "Over-refusal",
        "perplexity_ratio": "Perplexity ratio",
    }
    panels = {column: title for column, title in panels.items() if column in table}
    limits = {"over_refusal": OVER_REFUSAL, "perplexity_ratio": PERPLEXITY_FACTOR}
    titles = list(panels.values())
    figure = make_subplots(
        cols=len(panels), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04
    )
    for column, measure in enumerate(panels, start=1):
        for method, rows in table.groupby("method", sort=False):
            name = str(method)
            traces = runs_and_mean(name, rows[measure], method_colour(name), method_marker(name), across=True)
            figure.add_traces(traces, rows=1, cols=column)
        if measure in limits:
            line = {"color": "#bbb", "width": 1, "dash": "dot"}
            figure.add_vline(x=limits[measure], line=line, col=column)
    title = "Each method at the strength that the other seeds choose"
    styled(figure, title=title, x="", y="", width=1080, height=560)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(showlegend=False, margin={"l": 110, "t": 100})
    return figure


def outcomes_by_method(tables: GuardTables) -> go.Figure:
    """What the replies to harmful prompts do after the last update, by method."""
    table = chosen_on_other_seeds(tables)
    means, figure = table.groupby("method", sort=False)[list(OUTCOME_COLOURS)].mean(), go.Figure()
    for outcome, colour in OUTCOME_COLOURS.items():
        figure.add_bar(y=means.index, x=means[outcome], orientation="h", name=outcome, marker_color=colour)
    title, height = "Replies to held-out harmful prompts after the last update", 170 + 26 * len(means)
    styled(figure, title=title, x="share of replies, mean over runs", y="", width=900, height=height)
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(barmode="stack", margin={"l": 110}, legend={"traceorder": "normal"})


def displacement_and_refusals(tables: GuardTables) -> go.Figure:
    """Does less motion along v_rev go with more refusals across methods? A point per method and strength."""
    table, figure = against_baseline(tables), go.Figure()
    for method, rows in table[table["method"] != "push"].groupby("method", sort=False):
        figure.add_trace(_settings_of(str(method), rows, lambda own: mean_of(own, "fraction")))
    figure.add_vline(x=0, line={"color": "#bbb", "width": 1})
    figure.update_yaxes(range=[-0.03, 1.05])
    title = "Displacement along v_rev and refusals after the last update (without push)"
    styled(figure, title=title, x="reversion fraction, mean over layers", y=_KEPT, width=1000, height=560)
    return _legend_right(figure)


def _settings_of(method: str, rows: pd.DataFrame, x_of: Callable[[pd.DataFrame], Estimate]) -> go.Scatter:
    """A method's clean refusals at each of its strengths, weak to strong, with intervals on both axes."""
    groups = list(settings(rows))
    x, y = [x_of(own) for _, own in groups], [mean_of(own, "refusal") for _, own in groups]
    look: dict[str, Any] = THIN | {"color": translucent(method_colour(method), 0.35)}
    return go.Scatter(
        x=[e.value for e in x],
        y=[e.value for e in y],
        error_x=error_bars(x) | look,
        error_y=error_bars(y) | look,
        mode="markers",
        marker={"color": method_colour(method), "symbol": method_marker(method), "size": 9},
        name=method,
        text=["" if np.isnan(s.strength) else f"strength {s.strength:g}" for s, _ in groups],
    )


def routes(tables: GuardTables) -> go.Figure:
    """Refusals of guarded models: as they are, and clamped along v_rev to their or the baseline's mean."""
    chosen = chosen_on_other_seeds(tables)[["seed", "method", "strength"]]
    rows = chosen.merge(routes_of(tables), on=["seed", "method", "strength"])
    columns = {
        "as_it_is": ("as it is", "#000000", "circle"),
        "own": ("clamped to its own mean along v_rev", "#0072B2", "circle-open"),
        "baseline": ("clamped to the baseline's mean along v_rev", "#D55E00", "diamond"),
        "random": ("moved as far along random directions", "#999999", "x"),
    }
    models = [name for name in rows["model"].unique() if name not in ("push", "aligned")]
    models = ["aligned", *models] if "aligned" in set(rows["model"]) else models
    figure = go.Figure()
    for i, (column, (label, colour, symbol)) in enumerate(columns.items()):
        estimates = [mean_of(rows[rows["model"] == model], column) for model in models]
        figure.add_scatter(
            x=[e.value for e in estimates],
            y=[position + (i - 1.5) * 0.17 for position in range(len(models))],
            error_x=error_bars(estimates) | THIN,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=label,
        )
    figure.update_yaxes(tickvals=list(range(len(models))), ticktext=models, autorange="reversed")
    title, height = "Does a guard act by where the model lies along v_rev?", 160 + 46 * len(models)
    styled(figure, title=title, x=_KEPT, y="", width=900, height=height)
    figure.update_layout(margin={"l": 110, "t": 130}, legend={"orientation": "h", "y": 1.02})
    return figure


def transfer(tables: GuardTables) -> go.Figure:
    """Block along v_rev from elsewhere, and how near that lies to the seed's own."""
    own, moved = against_baseline(tables), tables.part("behaviour", "transfer")
    method, strength = moved["method"].iloc[0], moved["strength"].iloc[0]
    arms = {
        "baseline": own[own["method"] == "baseline"],
        "own": own[(own["method"] == method) & (own["strength"] == strength)],
    }
    arms |= {str(source): rows for source, rows in moved.groupby("direction", sort=False)}
    titles = (f"Clean refusals under {method}, by where v_rev is from", "Cosine with the seed's own v_rev")
    figure = make_subplots(cols=2, subplot_titles=titles)
    for source, rows in arms.items():
        traces = runs_and_mean(source, rows["refusal"], "#000000")
        figure.add_traces([trace.update(showlegend=False) for trace in traces], rows=1, cols=1)
    for source, rows in tables["directions"].groupby("source", sort=False):
        by_layer = [mean_of(layer, "cosine") for _, layer in rows.groupby("layer")]
        figure.add_scatter(
            x=sorted(rows["layer"].unique()),
            y=[e.value for e in by_layer],
            error_y=error_bars(by_layer) | THIN,
            name=str(source),
            showlegend=True,
            row=1,
            col=2,
        )
    styled(figure, title="Transfer of v_rev", x="", y="", width=1080, height=430)
    figure.update_xaxes(title_text="layer", dtick=1, col=2)
    figure.update_yaxes(range=[-0.03, 1.03], col=1)
    figure.update_layout(margin={"t": 120}, legend={"x": 0.55, "y": 1.1})
    return figure


def _legend_right(figure: go.Figure) -> go.Figure:
    legend = {"orientation": "v", "x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"}
    return figure.update_layout(legend=legend, margin={"r": 150})


def has_part(part: str) -> Callable[[GuardTables], bool]:
    """Whether a part of the study was run."""
    return lambda tables: len(tables.part("behaviour", part)) > 0


#: What a reader sees first.
METHOD_PLOTS = (
    Plot(
        "chosen_methods",
        chosen_methods,
        "For each seed the strength that does best on the other seeds, within the dotted limits on cost. "
        "Small dots are runs, large markers means with 95 % intervals.",
        needs=has_part("grid"),
    ),
)
#: In the order of the report.
GRID_PLOTS = (
    Plot(
        "trade_off",
        trade_off,
        "Lines join a method's strengths, weak to strong. The dotted front joins what no other setting "
        "beats in both; the grey line is the limit on cost within which strengths are chosen. Fronts of "
        "means flatter: they are chosen on the runs they show.",
        needs=lambda tables: has_part("grid")(tables) and "task_loss" in tables["behaviour"],
    ),
    Plot(
        "displacement_and_refusals",
        displacement_and_refusals,
        "If guards acted by displacement along v_rev alone, all points would lie on one curve.",
        needs=has_part("grid"),
    ),
)
ROUTE_PLOTS = (
    Plot(
        "routes",
        routes,
        "The projection on v_rev of every layer's last prompt token is set to a mean: the model's own, or "
        "the baseline's. If refusals go with the baseline's place and not with the model's own, the guard "
        "acts by where the model lies along v_rev. Strengths as chosen by other seeds.",
        needs=has_part("grid"),
    ),
    Plot(
        "transfer",
        transfer,
        "early-reference: the reference after half its updates. other-alignment: an alignment phase with "
        "half the updates, from the same reference. other-seed: v_rev of a model with other initial "
        "weights, whose axes have nothing in common.",
        needs=has_part("transfer"),
    ),
)
OUTCOME_PLOTS = (
    Plot(
        "outcomes_by_method",
        outcomes_by_method,
        "Methods at the strength that the other seeds choose; means over runs, intervals are in the tables.",
        needs=has_part("grid"),
    ),
)
