"""A report as one HTML file that loads nothing: claims, tables, figures and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from revlens.results import MIN_RUNS, Claim
from revlens.storage import write_text


@dataclass(frozen=True)
class Table:
    """A table of a report: a heading, column names, and rows of cells."""

    heading: str
    columns: list[str]
    rows: list[list[str]]


def write_page(
    path: Path,
    *,
    title: str,
    lead: str,
    notes: Sequence[str],
    claims: Sequence[Claim],
    tables: Sequence[Table],
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
        claims: assessed.
        tables: in order.
        figures: by name, in order.
        captions: what each figure shows.
        provenance: see `revlens.experiment.provenance`.
    """
    environment = Environment(
        loader=PackageLoader("revlens.figures"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        lead=lead,
        notes=notes,
        claims=claims,
        min_runs=MIN_RUNS,
        tables=tables,
        figures=[(name, captions[name], _embed(name, figure)) for name, figure in figures.items()],
        plotly_js=Markup(get_plotlyjs()),
        provenance=json.dumps(provenance, indent=2),
    )
    write_text(path, page)


def _embed(name: str, figure: go.Figure) -> Markup:
    # plotly escapes "</script>" in the JSON it writes
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name))
