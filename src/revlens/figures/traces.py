"""Traces that several figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from revlens.figures.style import OUTCOME_COLOURS, method_colour, translucent
from revlens.statistics import Estimate, mean_over_runs

#: For error bars that stand close together.
THIN = {"thickness": 1, "width": 2}


def band(
    rows: pd.DataFrame, y: str, name: str, colour: str, *, x: str = "step", showlegend: bool = True
) -> list[go.Scatter]:
    """Mean over runs of a column against another one, with the 95 % interval over runs as a band."""
    points = sorted(rows[x].unique())
    estimates = [mean_over_runs(rows.loc[rows[x] == point, y], n_resamples=2000) for point in points]
    dash = "dot" if name == "random" else "solid"  # it lies on the baseline, and would hide it
    line = go.Scatter(
        x=points, y=[e.value for e in estimates], mode="lines+markers" if len(points) < 30 else "lines",
        line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5},
        name=name, legendgroup=name, showlegend=showlegend,
    )  # fmt: skip
    edges = area(points, [e.low for e in estimates], [e.high for e in estimates], translucent(colour))
    return [edges.update(showlegend=False, legendgroup=name), line]


def area(x: Sequence[Any], low: Iterable[float], high: Iterable[float], colour: str) -> go.Scatter:
    """The area between two lines."""
    return go.Scatter(
        x=[*x, *reversed(x)], y=[*high, *reversed(list(low))], mode="lines", fill="toself", fillcolor=colour,
        line={"width": 0}, hoverinfo="skip",
    )  # fmt: skip


def add_methods(
    figure: go.Figure,
    rows: pd.DataFrame,
    y: str,
    *,
    by: str = "arm",
    panel: tuple[int, int] | None = None,
    showlegend: bool = True,
) -> None:
    """Add a band against steps for every method, in the figure or in the panel at a row and column of it."""
    row, column = panel or (None, None)
    for method, own in rows.groupby(by, sort=False):
        traces = band(own, y, str(method), method_colour(str(method)), showlegend=showlegend)
        figure.add_traces(traces, rows=row, cols=column)


def stacked_outcomes(rows: pd.DataFrame, *, x: str = "step", showlegend: bool = True) -> list[go.Scatter]:
    """Mean share of each outcome against another column, stacked: a hundred per cent at every point."""
    means = rows.groupby(x)[list(OUTCOME_COLOURS)].mean()
    return [
        go.Scatter(
            x=means.index, y=means[outcome], mode="lines", stackgroup="outcomes", fillcolor=colour,
            line={"width": 0.5, "color": colour}, name=outcome, legendgroup=outcome, showlegend=showlegend,
        )
        for outcome, colour in OUTCOME_COLOURS.items()
    ]  # fmt: skip


def error_bars(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The intervals of estimates, as plotly takes them."""
    return {
        "array": [e.high - e.value for e in estimates],
        "arrayminus": [e.value - e.low for e in estimates],
    }


def error_bars_in(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    """As `error_bars`, of intervals that a table holds in ``<column>_low`` and ``<column>_high``."""
    return {
        "array": rows[f"{column}_high"] - rows[column],
        "arrayminus": rows[column] - rows[f"{column}_low"],
    }


def runs_and_mean(
    name: str, values: pd.Series, colour: str, symbol: str = "diamond", *, across: bool = False
) -> list[go.Scatter]:
    """A small dot for each run, and their mean with its interval; upright at ``name``, or across."""
    estimate = mean_over_runs(values.to_numpy(float))
    along, at = ("x", "y") if across else ("y", "x")
    runs = go.Scatter(
        {along: values, at: [name] * len(values)},
        mode="markers",
        marker={"color": translucent(colour, 0.4), "size": 7},
    )
    mean = go.Scatter(
        {along: [estimate.value], at: [name], f"error_{along}": error_bars([estimate]) | THIN},
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 11},
    )
    return [runs, mean]


def each_run(rows: pd.DataFrame, x: str, y: str, *, name: str) -> list[go.Scatter]:
    """A thin black line for each run, under one name in the legend."""
    return [
        go.Scatter(
            x=run[x], y=run[y], mode="lines+markers",
            line={"color": "#000000", "width": 1}, marker={"size": 5},
            name=name, legendgroup="run", showlegend=i == 0, hovertext=f"seed {seed}",
        )
        for i, (seed, run) in enumerate(rows.groupby("seed"))
    ]  # fmt: skip


def heat_map(values: pd.DataFrame, title: str, *, text: object = None, showscale: bool = True) -> go.Heatmap:
    """A table of values between -1 and 1, with the numbers (or another text) in the cells."""
    return go.Heatmap(
        z=values.to_numpy(), x=[str(name) for name in values.columns], y=[str(name) for name in values.index],
        text=two_digits(values).to_numpy() if text is None else text, texttemplate="%{text}",
        zmid=0, zmin=-1, zmax=1, colorscale="RdBu_r", showscale=showscale, colorbar={"title": title},
    )  # fmt: skip


def two_digits(values: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text, a missing one as nothing."""
    # Adding zero turns -0.00 into 0.00.
    return values.map(lambda value: "" if pd.isna(value) else f"{round(value, 2) + 0.0:.2f}")
