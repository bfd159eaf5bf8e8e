"""The skeleton of every report: what it says, and its sections of figures, tables and replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import plotly.graph_objects as go

from revlens.figures.page import Chapter, Table, write_page
from revlens.figures.plot import Plot
from revlens.figures.replies import ReplyView
from revlens.results import Claim, Tables

_Config = TypeVar("_Config")
_Tables = TypeVar("_Tables", bound=Tables)


def _no_numbers(config: Any, tables: Any) -> list[Table]:
    return []


def _no_replies(tables: Any) -> list[ReplyView]:
    return []


@dataclass(frozen=True)
class Section(Generic[_Config, _Tables]):
    """A part of a report: figures first, then replies to browse, and tables folded.

    Attributes:
        key: its address in the page.
        heading: its name in the navigation.
        plots: its figures, in order.
        numbers: its tables, in order.
        replies: what models replied; one section of a report has some.
    """

    key: str
    heading: str
    plots: tuple[Plot[_Tables], ...] = ()
    numbers: Callable[[_Config, _Tables], list[Table]] = _no_numbers
    replies: Callable[[_Tables], list[ReplyView]] = _no_replies


@dataclass(frozen=True)
class Report(Generic[_Config, _Tables]):
    """What the report of a plan says.

    Attributes:
        plan: whose results it reports.
        title: the question.
        lead: what was run, below the title.
        notes: what a reader must know before the numbers.
        overview: the figures beside the headline claims.
        sections: in order.
    """

    plan: str
    title: str
    lead: Callable[[_Config], str]
    notes: Callable[[_Config, _Tables], list[str]]
    overview: tuple[Plot[_Tables], ...]
    sections: tuple[Section[_Config, _Tables], ...]

    @property
    def plots(self) -> tuple[Plot[_Tables], ...]:
        """All figures, in order."""
        return self.overview + tuple(plot for section in self.sections for plot in section.plots)


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
    figures: Mapping[str, go.Figure],
) -> None:
    """Write a report as one HTML file, see `revlens.figures.page`.

    Args:
        path: where to.
        report: what it says.
        config: what was run.
        tables: its results.
        claims: assessed.
        provenance: what made the results, ready for JSON.
        figures: by name, see `draw_all`.
    """
    chapters = [
        Chapter(
            section.key,
            section.heading,
            [plot.name for plot in section.plots if plot.name in figures],
            section.numbers(config, tables),
            section.replies(tables),
        )
        for section in report.sections
    ]
    write_page(
        path,
        title=report.title,
        lead=report.lead(config),
        notes=report.notes(config, tables),
        claims=claims,
        overview=[plot.name for plot in report.overview if plot.name in figures],
        chapters=[chapter for chapter in chapters if not chapter.is_empty],
        figures=figures,
        captions={plot.name: plot.caption for plot in report.plots},
        provenance=provenance,
    )
