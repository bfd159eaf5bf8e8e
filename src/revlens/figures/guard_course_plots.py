"""Figures of guards against time: in longer runs, and after they are switched off."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.experiment import GuardTables, against_baseline
from revlens.figures.guard_plots import has_part
from revlens.figures.plot import Plot
from revlens.figures.style import STEP, styled
from revlens.figures.traces import add_methods


def lasting(tables: GuardTables) -> go.Figure:
    """Longer runs: refusals, harmfulness, reversion fraction and over-refusal."""
    behaviour, readings = tables.part("behaviour", "lasting"), tables.part("readings", "lasting")
    panels = [
        ("refusal", behaviour, "Clean refusals"),
        ("harmfulness", behaviour, "Harmfulness"),
        ("fraction", readings, "Reversion fraction"),
        ("over_refusal", behaviour, "Over-refusal"),
    ]
    return _courses(panels, "Longer runs")


def released(tables: GuardTables) -> go.Figure:
    """The guard is switched off on the way: does the model revert then?"""
    base = against_baseline(tables, "released")
    last, switched = base["step"].max(), int(base["until"].min())

    def with_baseline(name: str) -> pd.DataFrame:
        long = tables.part(name, "lasting")
        baseline = long[(long["method"] == "baseline") & (long["step"] <= last)]
        return pd.concat([baseline, tables.part(name, "released")])

    panels = [
        ("refusal", with_baseline("behaviour"), "Clean refusals"),
        ("harmfulness", with_baseline("behaviour"), "Harmfulness"),
        ("fraction", with_baseline("readings"), "Reversion fraction"),
    ]
    figure = _courses(panels, f"Guards switched off at step {switched}")
    return figure.add_vline(x=switched, line={"color": "#888", "dash": "dash", "width": 1})


def _courses(panels: list[tuple[str, pd.DataFrame, str]], title: str) -> go.Figure:
    """Side by side, a column of each table against steps, by method."""
    titles = [name for _, _, name in panels]
    figure = make_subplots(cols=len(panels), subplot_titles=titles, horizontal_spacing=0.08)
    for i, (measure, table, _) in enumerate(panels, start=1):
        add_methods(figure, table, measure, by="method", panel=(1, i), showlegend=i == 1)
        if measure != "fraction":
            figure.update_yaxes(range=[-0.03, 1.03], col=i)
    styled(figure, title=title, x=STEP, y="", width=1080, height=430)
    figure.update_layout(margin={"t": 120}, legend={"y": 1.12})
    return figure


#: In the order of the report.
GUARD_COURSE_PLOTS = (
    Plot(
        "lasting",
        lasting,
        "The same fine-tune for longer, guarded all the way. Bands are 95 % intervals over runs.",
        needs=has_part("lasting"),
    ),
    Plot(
        "released",
        released,
        "The optimizer goes on as it is when the guard ends (dashed line). The baseline never had one; all "
        "see the same data.",
        needs=has_part("released"),
    ),
)
