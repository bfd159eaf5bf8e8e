"""The first update, predicted from the gradient and measured."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from revlens.figures.style import styled
from revlens.figures.traces import THIN
from revlens.statistics import mean_over_runs

#: Predicted from the gradient, before any training.
PREDICTED: Mapping[str, str] = {"plain": "plain gradient,<br>predicted", "adamw": "AdamW,<br>predicted"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def first_update_figure(table: pd.DataFrame) -> go.Figure:
    """Cosine of the drift with v_rev, predicted and after each measured step, by benign task.

    Args:
        table: columns ``task``, ``seed``, ``when`` (a key of `PREDICTED`, or a step as text), ``alignment``.
    """
    figure = go.Figure()
    for (task, own), colour in zip(table.groupby("task", sort=False), _COLOURS, strict=False):
        whens = list(own["when"].unique())
        estimates = [mean_over_runs(own.loc[own["when"] == when, "alignment"].tolist()) for when in whens]
        figure.add_scatter(
            x=[PREDICTED.get(when, f"step {when}") for when in whens],
            y=[e.value for e in estimates],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [e.high - e.value for e in estimates],
                "arrayminus": [e.value - e.low for e in estimates],
                **THIN,
            },
            mode="lines+markers",
            name=str(task),
            line={"color": colour},
        )
    figure.add_hline(y=0, line={"color": "#bbb", "width": 1})
    return styled(
        figure,
        title="The first update, before and after it is made",
        x="",
        y="cos(drift, v_rev), mean over layers",
    )
