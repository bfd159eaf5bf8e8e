"""Figures for a paper, from loaded results: one column wide or two, with type and lines of that size.

They are the report's figures in another layout, so numbers, intervals and colours (safe for colour-blind
readers) are the same. A unit of these layouts is a point, 1/72 inch: a font of size 8 prints at 8 points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TypeVar

import plotly.graph_objects as go

from revlens.errors import ConfigError, ResultsError, StorageError
from revlens.experiment import ArmTables, GuardTables, Results
from revlens.figures.behaviour_plots import outcomes_by_arm
from revlens.figures.causal_plots import patching_parts
from revlens.figures.drift_plots import alignment_by_arm, alignment_by_layer
from revlens.figures.export import render
from revlens.figures.guard_plots import trade_off
from revlens.figures.style import STEP, step_axis, styled
from revlens.figures.traces import add_methods
from revlens.results import Tables
from revlens.storage import atomic_file
from revlens.training import ARMS

Column = Literal["single", "double"]
_Kind = TypeVar("_Kind", bound=Tables)

#: Inches, of a page with two columns.
WIDTHS: Mapping[Column, float] = {"single": 3.25, "double": 6.75}
POINTS = 72
_FONT, _SMALL = 8, 7  # points: titles of axes and panels; ticks, legend, numbers in cells
#: Pixels of an image for each point of a figure. A browser prints 96 pixels to the inch.
_SCALES = {".svg": 1.0, ".pdf": 96 / POINTS, ".png": 600 / POINTS}


def alignment_by_step(
    results: Results, column: Column = "single", *, arms: Sequence[str] = ARMS
) -> go.Figure:
    """Cosine of the drift with v_rev by step and arm, mean over layers, with the paper's values.

    Args:
        results: of ``revlens reproduce``.
        column: how wide.
        arms: those to draw.

    Raises:
        ResultsError: if the results are of a study, or lack one of the arms.
    """
    figure = alignment_by_arm(_arms(results, arms))
    printed = results.claims.dropna(subset="paper_value")
    steps = printed["key"].str.extract(r"^alignment-(\d+)$")[0]
    if steps.notna().any():
        figure.add_scatter(
            x=steps.dropna().astype(int), y=printed.loc[steps.notna(), "paper_value"], mode="markers",
            marker={"symbol": "diamond-open", "color": "#000000", "size": 10},
            name="baseline of Poppi & Lukas",
        )  # fmt: skip
    if column == "single":
        step_axis(figure, _apart(figure.layout.xaxis.tickvals))
    return _fitted(figure, column, 2.2)


def refusals_by_step(results: Results, column: Column = "single", *, arms: Sequence[str] = ARMS) -> go.Figure:
    """Clean refusals of held-out harmful prompts by step and arm.

    Args, raises: as `alignment_by_step`.
    """
    figure = go.Figure()
    add_methods(figure, _arms(results, arms)["behaviour"], "refusal")
    styled(figure, title="", x=STEP, y="clean refusals")
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    return _fitted(figure, column, 2.2)


def outcomes_by_step(results: Results, *, arms: Sequence[str] = ARMS) -> go.Figure:
    """What the replies to held-out harmful prompts do by step, a panel for each arm; means over runs.

    Two columns wide: its panels need them.

    Args, raises: as `alignment_by_step`.
    """
    return _fitted(outcomes_by_arm(_arms(results, arms)), "double", 1.9)


def layer_by_step(results: Results, column: Column = "single") -> go.Figure:
    """Map of the baseline's alignment, layer by step, mean over runs.

    Args, raises: as `alignment_by_step`.
    """
    tables = _tables(results, ArmTables)
    n_layers = tables["alignment"]["layer"].nunique()
    return _fitted(alignment_by_layer(tables), column, 0.9 + 0.2 * n_layers)


def patching_by_layer(results: Results, column: Column = "single") -> go.Figure:
    """Share of the refusal logit difference recovered by patching, by layer and part of the activation.

    One column shows aligned into fine-tuned (does refusal come back?), two columns all pairs of checkpoints.

    Args, raises: as `alignment_by_step`.
    """
    tables = _tables(results, ArmTables)
    figure = patching_parts(tables, ("restore",)) if column == "single" else patching_parts(tables)
    figure.update_yaxes(title_text="share recovered", col=1)
    return _fitted(figure, column, 2.2)


def guard_trade_off(results: Results, column: Column = "double") -> go.Figure:
    """Clean refusals against task cost of every guard and strength.

    Args:
        results: of ``revlens study``.
        column: how wide.

    Raises:
        ResultsError: if the results are not of a study.
    """
    figure = _fitted(trade_off(_tables(results, GuardTables)), column, 3.4)
    figure.update_yaxes(title_text="clean refusals")
    if column == "single":
        figure.update_xaxes(tickvals=[0.01, 0.1, 1, 10], ticktext=["≤ 0.01 %", "0.1 %", "1 %", "10 %"])
        figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"})
    return figure


def write(figure: go.Figure, *paths: str | Path) -> None:
    """Write a figure of this module in its size, whole or not at all: as SVG, PDF or PNG (600 dpi).

    Args:
        figure: with its width and height in points.
        paths: of the files; their suffixes say the formats.

    Raises:
        ConfigError: if a suffix is none of these.
        StorageError: if there is no kaleido or no Chromium, or a file cannot be written.
    """
    files = [Path(path) for path in paths]
    for file in files:
        if file.suffix not in _SCALES:
            raise ConfigError(f"Cannot write {file}: expected a suffix of {', '.join(_SCALES)}.")
    with ExitStack() as finished:
        partial = [finished.enter_context(atomic_file(file)) for file in files]
        problem = render([figure] * len(files), partial, [_SCALES[file.suffix] for file in files])
        if problem:
            raise StorageError(f"{', '.join(map(str, files))} cannot be written: {problem}")
        for image in partial:
            if image.suffix == ".svg":
                image.write_text(_in_points(image.read_text(encoding="utf-8")), encoding="utf-8")


def _in_points(svg: str) -> str:
    """An SVG whose size has a unit: without one, some programs take 72 and others 96 to the inch."""
    return re.sub(
        r'(<svg [^>]*?)width="([\d.]+)" height="([\d.]+)"', r'\1width="\2pt" height="\3pt"', svg, count=1
    )


def _arms(results: Results, arms: Sequence[str]) -> ArmTables:
    """The tables with the rows of these arms."""
    tables = _tables(results, ArmTables)
    missing = [arm for arm in arms if arm not in set(tables["behaviour"]["arm"])]
    if missing:
        there = ", ".join(tables["behaviour"]["arm"].unique())
        raise ResultsError(f"{results.folder} has no arm {missing[0]!r}; choose arms= among {there}.")
    return ArmTables(
        {
            name: table[table["arm"].isin(arms)] if "arm" in table else table
            for name, table in tables.tables.items()
        }
    )


def _tables(results: Results, kind: type[_Kind]) -> _Kind:
    if not isinstance(results.tables, kind):
        verb = "study" if kind is GuardTables else "reproduce"
        raise ResultsError(f"This figure needs results of `revlens {verb}`; {results.folder} has others.")
    return results.tables


def _apart(steps: Sequence[int]) -> list[int]:
    """The steps that have room for a label each on a logarithmic axis, the last one to begin with."""
    kept: list[int] = []
    for step in reversed(steps):
        if not kept or kept[-1] / step > 1.4:
            kept.append(step)
    return kept[::-1]


def _fitted(figure: go.Figure, column: Column, height: float) -> go.Figure:
    """The figure without its title, in the width of a column and ``height`` inches."""
    title_height = 14 if figure.layout.annotations else 0  # of panels
    figure.update_layout(
        title_text="",
        width=POINTS * WIDTHS[column],
        height=POINTS * height,
        font={"size": _FONT, "color": "#000000"},
        margin={"l": 4, "r": 6, "t": 6 + title_height, "b": 4},
        legend={"font_size": _SMALL, "y": 1.02 + title_height / (0.6 * POINTS * height), "tracegroupgap": 0},
    )
    axis = {
        "automargin": True, "ticks": "outside", "ticklen": 2, "tickwidth": 0.5, "tickangle": 0,
        "tickfont_size": _SMALL, "title_font_size": _FONT, "title_standoff": 4, "gridwidth": 0.5,
    }  # fmt: skip
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    figure.update_annotations(font_size=_FONT)
    for trace in figure.data:
        if trace.type == "heatmap":
            trace.update(
                textfont_size=_SMALL,
                colorbar={"thickness": 6, "len": 1, "tickfont_size": _SMALL, "title_font_size": _SMALL},
            )
        elif trace.type == "scatter":
            trace.line.width = _half(trace.line.width)
            trace.marker.size = _half(trace.marker.size)
        for name in ("error_x", "error_y"):
            if name in trace:
                trace[name].update(thickness=0.5, width=1.5)
    return figure


def _half(size: float | int | None) -> float:
    """Of a width or a size in the report, which is about twice as wide as a page; plotly's own is 2."""
    return 1.0 if size is None else size / 2
