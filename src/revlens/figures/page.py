"""A report as one HTML file that loads nothing: claims, figures, replies, tables and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from revlens.figures.replies import ReplyView, as_json, packed
from revlens.figures.style import WIDTH
from revlens.results import MIN_RUNS, Claim
from revlens.storage import write_text


@dataclass(frozen=True)
class Table:
    """A table of a report: a heading, column names, and rows of cells."""

    heading: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Chapter:
    """A section of a page.

    Attributes:
        key: its address.
        heading: its name in the navigation.
        figures: their names, in order.
        tables: in order, folded.
        replies: to browse; at most one chapter of a page has some.
    """

    key: str
    heading: str
    figures: list[str]
    tables: list[Table] = field(default_factory=list)
    replies: list[ReplyView] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.replies)


def write_page(
    path: Path,
    *,
    title: str,
    lead: str,
    notes: Sequence[str],
    claims: Sequence[Claim],
    overview: Sequence[str],
    chapters: Sequence[Chapter],
    figures: Mapping[str, go.Figure],
    captions: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> None:
    """Write a page with its figures and plotly.js inside; everything from the data is escaped.

    Args:
        path: where to.
        title: of the page.
        lead: what it is about, below the title.
        notes: what a reader must know before the numbers.
        claims: assessed; headline claims become cards.
        overview: names of the figures beside the cards.
        chapters: in order.
        figures: by name.
        captions: what each figure shows.
        provenance: see `revlens.experiment.provenance`.
    """
    views = [view for chapter in chapters for view in chapter.replies]
    page = template("report.html.j2").render(
        title=title,
        lead=lead,
        notes=notes,
        claims=claims,
        min_runs=MIN_RUNS,
        overview=overview,
        chapters=chapters,
        headings={name: figure.layout.title.text or name for name, figure in figures.items()},
        captions=captions,
        wide={name for name, figure in figures.items() if (figure.layout.width or 0) > WIDTH},
        figures=_script_json("{" + ",".join(_named_figures(figures)) + "}"),
        replies=_script_json(as_json(packed(views))),
        plotly_js=Markup(get_plotlyjs()),
        provenance=json.dumps(provenance, indent=2),
    )
    write_text(path, page)


def template(name: str) -> Template:
    """A template of a page, which escapes everything that it is given."""
    environment = Environment(
        loader=PackageLoader("revlens.figures"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(name)


def _named_figures(figures: Mapping[str, go.Figure]) -> list[str]:
    return [f"{json.dumps(name)}:{figure.to_json()}" for name, figure in figures.items()]


def _script_json(text: str) -> Markup:
    """JSON inside a script element: no text in it ends the element or begins a comment."""
    return Markup(text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029"))
