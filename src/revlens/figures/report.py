"""The skeleton of every report: what it says, its tables and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import plotly.graph_objects as go

from revlens.figures.page import Table, write_page
from revlens.figures.plot import Plot
from revlens.results import Claim, Tables

_Config = TypeVar("_Config")
_Tables = TypeVar("_Tables", bound=Tables)


@dataclass(frozen=True)
class Report(Generic[_Config, _Tables]):
    """What the report of a plan says.

    Attributes:
        plan: whose results it reports.
        title: of the page.
        lead: what was run, below the title.
        notes: what a reader must know before the numbers.
        numbers: its tables, in order.
        plots: its figures, in order.
    """

    plan: str
    title: str
    lead: Callable[[_Config], str]
    notes: Callable[[_Config, _Tables], list[str]]
    numbers: Callable[[_Config, _Tables], list[Table]]
    plots: tuple[Plot[_Tables], ...]


def drawable(report: Report[Any, _Tables], tables: _Tables) -> tuple[Plot[_Tables], ...]:
    """The figures of a report for which its tables hold what they need."""
    return tuple(plot for plot in report.plots if plot.needs(tables))


def draw_all(report: Report[Any, _Tables], tables: _Tables) -> dict[str, go.Figure]:
    """Every figure that can be drawn, by name and in the order of the report."""
    return {plot.name: plot.draw(tables) for plot in drawable(report, tables)}


def write_report(
    path: Path,
    report: Report[_Config, _Tables],
    config: _Config,
    tables: _Tables,
    claims: Sequence[Claim],
    provenance: dict[str, Any],
) -> None:
    """Write a report as one HTML file, see `revlens.figures.page`.

    Args:
        path: where to.
        report: what it says.
        config: what was run.
        tables: its results.
        claims: assessed.
        provenance: what made the results, ready for JSON.
    """
    write_page(
        path,
        title=report.title,
        lead=report.lead(config),
        notes=report.notes(config, tables),
        claims=claims,
        tables=report.numbers(config, tables),
        figures=draw_all(report, tables),
        captions={plot.name: plot.caption for plot in report.plots},
        provenance=provenance,
    )
