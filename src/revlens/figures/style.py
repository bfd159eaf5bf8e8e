"""One look for every figure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from revlens.statistics import mean_over_runs
from revlens.training import ARMS, METHODS

#: Okabe-Ito colours: they stay apart in greyscale and for colour-blind readers.
ARM_COLOURS = {arm: METHODS[arm].colour for arm in ARMS}
NULL_COLOURS = {"isotropic": "#009E73", "covariance": "#CC79A7", "relabelled": "#E69F00"}
ESTIMATE_COLOURS = {"cross-fitted": "#000000", "naive": "#E69F00"}
DIRECTION_COLOURS = {"v_rev": "#000000", "random": "#009E73", "covariance": "#CC79A7"}
PART_COLOURS = {"full": "#999999", "along": "#0072B2", "orthogonal": "#E69F00"}
CONTROL_COLOURS = {"v_rev": "#000000", "harmless": "#56B4E9", "foreign": "#999999"}

WIDTH, HEIGHT = 820, 460


def styled(
    figure: go.Figure, *, title: str, x: str, y: str, width: int = WIDTH, height: int = HEIGHT
) -> go.Figure:
    """Apply size, fonts, axis titles and a legend below the title."""
    figure.update_layout(
        template="plotly_white",
        width=width,
        height=height,
        title={
            "text": title,
            "x": 0.02,
            "xanchor": "left",
            "y": 0.97,
            "yanchor": "top",
            "font": {"size": 16},
        },
        font={"family": "Helvetica, Arial, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "xanchor": "left", "x": 0},
        margin={"l": 70, "r": 30, "t": 90, "b": 60},
    )
    figure.update_xaxes(title_text=x, zeroline=False)
    figure.update_yaxes(title_text=y)
    return figure


def step_axis(figure: go.Figure, steps: list[int]) -> go.Figure:
    """A logarithmic axis of steps that labels the captured ones: early steps are dense."""
    figure.update_xaxes(type="log", tickvals=steps, ticktext=[str(step) for step in steps])
    return figure


def translucent(colour: str, alpha: float = 0.15) -> str:
    """A hex colour as rgba."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def band(
    rows: pd.DataFrame, name: str, colour: str, *, x: str = "step", showlegend: bool = True
) -> list[go.Scatter]:
    """Mean over runs of column ``value`` against ``x``, with the 95 % interval over runs as a band."""
    points = sorted(rows[x].unique())
    estimates = [mean_over_runs(rows.loc[rows[x] == point, "value"], n_resamples=2000) for point in points]
    edge = [e.high for e in estimates] + [e.low for e in reversed(estimates)]
    area = go.Scatter(
        x=points + points[::-1], y=edge, mode="lines", fill="toself", fillcolor=translucent(colour), line={"width": 0},
        hoverinfo="skip", showlegend=False, legendgroup=name,
    )  # fmt: skip
    dash = "dot" if name == "random" else "solid"  # it lies on the baseline, and would hide it
    line = go.Scatter(
        x=points, y=[e.value for e in estimates], mode="lines+markers" if len(points) < 30 else "lines", name=name,
        line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5}, legendgroup=name, showlegend=showlegend,
    )  # fmt: skip
    return [area, line]
