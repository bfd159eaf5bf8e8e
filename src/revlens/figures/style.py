"""One look for every figure."""

from __future__ import annotations

import plotly.graph_objects as go

#: Okabe-Ito colours: they stay apart in greyscale and for colour-blind readers.
ARM_COLOURS = {"baseline": "#000000", "block": "#0072B2", "push": "#D55E00", "random": "#999999"}
NULL_COLOURS = {"isotropic": "#009E73", "covariance": "#CC79A7", "relabelled": "#E69F00"}
ESTIMATE_COLOURS = {"cross-fitted": "#000000", "naive": "#E69F00"}
CONTROL_COLOURS = {"v_rev": "#000000", "harmless": "#56B4E9", "foreign": "#999999"}

WIDTH, HEIGHT = 820, 460


def styled(figure: go.Figure, *, title: str, x: str, y: str, width: int = WIDTH, height: int = HEIGHT) -> go.Figure:
    """Apply size, fonts, axis titles and a legend below the title."""
    figure.update_layout(
        template="plotly_white",
        width=width,
        height=height,
        title={"text": title, "x": 0.02, "xanchor": "left", "font": {"size": 16}},
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
