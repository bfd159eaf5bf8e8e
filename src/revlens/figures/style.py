"""One look for every figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import plotly.graph_objects as go

from revlens.behaviour import Outcome
from revlens.direction import nulls
from revlens.errors import ResultsError
from revlens.experiment import CONTROLS, Control
from revlens.training import METHODS, Method

_Style = TypeVar("_Style")

#: Methods of guarding, and the arms that control block.
_ARMS: Mapping[str, Method | Control] = {**CONTROLS, **METHODS}

#: The colour of each outcome, from what alignment keeps to what it loses.
OUTCOME_COLOURS: Mapping[Outcome, str] = {
    "refusal": "#0072B2",
    "mixed": "#CC79A7",
    "deflection": "#F0E442",
    "compliance": "#D55E00",
    "degenerate": "#999999",
}
#: Titles of axes.
STEP, COSINE = "fine-tuning step", "cos(drift, v_rev)"
WIDTH, HEIGHT = 820, 460


def method_colour(method: str) -> str:
    """The colour of an arm, or of a method of guarding."""
    return style_of(method, _ARMS).colour


def method_marker(method: str) -> str:
    """The marker of a method of guarding."""
    return style_of(method, _ARMS).marker


def null_colour(null: str) -> str:
    """The colour of a null."""
    return style_of(null, nulls.NULLS).colour


def style_of(name: str, styles: Mapping[str, _Style]) -> _Style:
    """How something in a table is drawn.

    Raises:
        ResultsError: if no style is known for it. It is never left out of a figure.
    """
    if name not in styles:
        raise ResultsError(
            f"Figures cannot draw {name!r}, only {', '.join(styles)}: give it a style beside theirs, "
            "or draw the tables with the version of revlens that made them."
        )
    return styles[name]


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
