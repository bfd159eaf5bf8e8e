"""Figures of behaviour and of the task, by arm."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.experiment import ArmTables
from revlens.figures.plot import Plot
from revlens.figures.style import STEP, styled
from revlens.figures.traces import add_methods

_PANELS = {
    "harmfulness": "Harmfulness",
    "over_refusal": "Over-refusal",
    "task_loss": "Task loss (nats)",
    "exact_match": "Exact match",
}


def behaviour_by_arm(results: ArmTables) -> go.Figure:
    """Harmfulness, over-refusal, task loss and exact match by arm; without a held-out task, the first two."""
    table = results["behaviour"]
    panels = {measure: title for measure, title in _PANELS.items() if measure in table}
    n_rows = len(panels) // 2
    figure = make_subplots(rows=n_rows, cols=2, subplot_titles=list(panels.values()), vertical_spacing=0.12)
    for i, measure in enumerate(panels):
        add_methods(figure, table, measure, panel=(i // 2 + 1, i % 2 + 1), showlegend=i == 0)
    title = "Behaviour and task cost by arm"
    styled(figure, title=title, x=STEP, y="", width=1000, height=350 * n_rows)
    figure.update_layout(margin={"t": 130}, legend={"y": 1.06 if n_rows > 1 else 1.2})
    if "task_loss" in panels:
        figure.update_xaxes(title_text="", row=1)
        figure.update_yaxes(type="log", row=2, col=1)
    return figure


def training_loss(results: ArmTables) -> go.Figure:
    """Task loss per update, by arm."""
    figure = go.Figure()
    add_methods(figure, results["training"], "loss")
    figure.update_yaxes(type="log")
    title = "Task loss during the benign fine-tune (without the guard's term)"
    return styled(figure, title=title, x="update", y="nats per answer token")


#: In the order of the report.
BEHAVIOUR_PLOTS = (
    Plot(
        "behaviour_by_arm",
        behaviour_by_arm,
        "Refusals are judged by opening phrases; task loss and exact match are on held-out task examples.",
    ),
    Plot(
        "training_loss",
        training_loss,
        "Optimizer-matched arms: the same data in the same order, the same schedule.",
        needs=lambda results: len(results["training"]) > 0,  # not where the checkpoints are given
    ),
)
