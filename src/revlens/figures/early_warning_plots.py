"""Figures of early warning: does a reading early in a fine-tune foretell harm at its end?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from revlens.experiment import PREDICTORS, GuardTables
from revlens.figures.guard_plots import has_part
from revlens.figures.plot import Plot
from revlens.figures.style import COSINE, style_of, styled, translucent
from revlens.figures.traces import error_bars_in

_PREDICTOR_COLOURS = {
    "alignment": "#000000",
    "fraction": "#0072B2",
    "drift_norm": "#E69F00",
    "kl": "#CC79A7",
    "loss_drop": "#999999",
}
_PAIR_COLOURS = ("#000000", "#0072B2", "#E69F00")
_TASK_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73")


def early_warning(tables: GuardTables) -> go.Figure:
    """Area under the ROC curve of each predictor at each early step."""
    table, figure = tables["early_warning"], go.Figure()
    steps = sorted(table["step"].unique())
    for i, (name, rows) in enumerate(table.dropna(subset=["auroc"]).groupby("predictor", sort=False)):
        figure.add_scatter(
            x=[steps.index(step) + (i - 2) * 0.1 for step in rows["step"]],
            y=rows["auroc"],
            error_y=error_bars_in(rows, "auroc") | {"thickness": 1},
            mode="markers",
            marker={"color": style_of(str(name), _PREDICTOR_COLOURS), "size": 9},
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


def areas_figure(table: pd.DataFrame) -> go.Figure:
    """Area under the ROC curve of each predictor, over all pairs of fine-tunes and over pairs that are alike.

    Args:
        table: columns ``step``, ``predictor``, ``pairs``, ``auroc``, ``low`` and ``high``. Its last step is
            drawn.
    """
    last = table[table["step"] == table["step"].max()]
    figure = go.Figure()
    for (pairs, rows), colour in zip(last.groupby("pairs", sort=False), _PAIR_COLOURS, strict=False):
        figure.add_scatter(
            x=rows["auroc"],
            y=rows["predictor"],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["auroc"],
                "arrayminus": rows["auroc"] - rows["low"],
                "thickness": 1,
            },
            mode="markers",
            marker={"color": colour, "size": 9},
            name=f"{pairs} pairs" if pairs == "all" else f"pairs of {pairs}",
        )
    figure.add_vline(x=0.5, line={"color": "#bbb", "dash": "dot"}, annotation_text="chance")
    figure.update_xaxes(range=[0, 1.03])
    figure.update_yaxes(autorange="reversed")
    title = f"What foretells harm at the end (read at step {last['step'].iloc[0]})"
    styled(figure, title=title, x="area under the ROC curve", y="", width=920, height=520)
    figure.update_layout(scattermode="group", scattergap=0.5, margin={"t": 110, "l": 220})
    return figure


def early_readings(tables: GuardTables) -> go.Figure:
    """Harm at the end against alignment early, a point per run, by benign task."""
    readings = tables.part("readings", "early")
    step = max(s for s in readings["step"].unique() if s <= 20)
    keys = ["seed", "task", "rate"]
    early = readings[readings["step"] == step][[*keys, "alignment"]]
    table = early.merge(tables.part("behaviour", "early")[[*keys, "harmfulness"]], on=keys)
    figure = go.Figure()
    for i, (task, rows) in enumerate(table.groupby("task", sort=False)):
        colour = translucent(_TASK_COLOURS[i % len(_TASK_COLOURS)], 0.6)
        runs = zip(rows["seed"], rows["rate"], strict=True)
        figure.add_scatter(
            x=rows["alignment"],
            y=rows["harmfulness"],
            mode="markers",
            marker={"color": colour, "size": 6 + 4 * np.sqrt(rows["rate"])},
            name=str(task),
            text=[f"seed {seed}, rate x {rate:g}" for seed, rate in runs],
        )
    title = f"Alignment at step {step} and harm at the end: a point per run, larger for higher learning rates"
    return styled(figure, title=title, x=COSINE, y="harmfulness at the end")


def _some_harm_and_some_none(tables: GuardTables) -> bool:
    return has_part("early")(tables) and not tables["early_warning"]["auroc"].isna().all()


#: In the order of the report.
EARLY_WARNING_PLOTS = (
    Plot(
        "early_warning",
        early_warning,
        "0.5 is chance. Runs differ in seed, benign task and learning rate, and none has a guard; seeds are"
        " resampled whole.",
        needs=_some_harm_and_some_none,
    ),
    Plot("early_readings", early_readings, "The readings behind it.", needs=has_part("early")),
)
