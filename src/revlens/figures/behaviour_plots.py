"""Figures of behaviour and of the task, by arm."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.experiment import ArmTables
from revlens.figures.plot import Plot
from revlens.figures.style import STEP, styled
from revlens.figures.traces import add_methods, stacked_outcomes

_PANELS = {
    "refusal": "Clean refusals of harmful prompts",
    "harmfulness": "Harmfulness",
    "over_refusal": "Over-refusal",
    "borderline_refusal": "Over-refusal of prompts that sound unsafe",
    "task_loss": "Task loss (nats)",
    "exact_match": "Exact match",
}


def behaviour_by_arm(results: ArmTables) -> go.Figure:
    """Refusals, harmfulness, over-refusal and, with a held-out task, its loss and exact match, by arm."""
    table = results["behaviour"]
    panels = {measure: title for measure, title in _PANELS.items() if measure in table}
    n_rows = (len(panels) + 1) // 2
    cells: list[dict[str, Any] | None] = [{} for _ in panels]
    cells += [None] * (2 * n_rows - len(panels))
    figure = make_subplots(
        rows=n_rows,
        cols=2,
        specs=[cells[2 * row : 2 * row + 2] for row in range(n_rows)],
        subplot_titles=list(panels.values()),
        vertical_spacing=0.12,
    )
    for i, measure in enumerate(panels):
        add_methods(figure, table, measure, panel=(i // 2 + 1, i % 2 + 1), showlegend=i == 0)
    title = "Behaviour and task cost by arm"
    styled(figure, title=title, x=STEP, y="", width=1000, height=350 * n_rows)
    figure.update_layout(margin={"t": 130}, legend={"y": 1.06 if n_rows > 1 else 1.2})
    if "task_loss" in panels:
        figure.update_xaxes(title_text="", row=1)
        figure.update_yaxes(type="log", row=2, col=2)
    return figure


def outcomes_by_arm(results: ArmTables) -> go.Figure:
    """What the replies to harmful prompts do, by step and arm."""
    table = results["behaviour"]
    arms = list(table["arm"].unique())
    figure = make_subplots(cols=len(arms), subplot_titles=arms, shared_yaxes=True, horizontal_spacing=0.03)
    for column, arm in enumerate(arms, start=1):
        traces = stacked_outcomes(table[table["arm"] == arm], showlegend=column == 1)
        figure.add_traces(traces, rows=1, cols=column)
    title = "Replies to held-out harmful prompts, means over runs"
    styled(figure, title=title, x=STEP, y="", width=300 + 220 * len(arms), height=430)
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    figure.update_layout(margin={"t": 120}, legend={"y": 1.12, "traceorder": "normal"})
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
        "A clean refusal declines and gives nothing. Harmful is what complies, or declines and gives the "
        "substance all the same. Task loss and exact match are on held-out task examples.",
    ),
    Plot(
        "outcomes_by_arm",
        outcomes_by_arm,
        "refusal: declines and gives nothing. mixed: declines and answers all the same. deflection: neither. "
        "compliance: answers. degenerate: says nothing. Intervals are in the tables.",
    ),
    Plot(
        "training_loss",
        training_loss,
        "Optimizer-matched arms: the same data in the same order, the same schedule.",
        needs=lambda results: len(results["training"]) > 0,  # not where the checkpoints are given
    ),
)
