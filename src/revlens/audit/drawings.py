"""Stored figures and the stored report against what is drawn from the recomputed tables."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from revlens.audit.difference import Difference, Verification, missing
from revlens.figures import Report, html, write_report
from revlens.results import Claim, Tables


def compare_figures(folder: Path, figures: Mapping[str, go.Figure]) -> Verification:
    """Compare the HTML of stored figures with the same figures drawn again. Without a folder there is none.

    Static images and plotly.js are not drawn again; their checksums are compared with all others.
    """
    if not folder.is_dir():
        return Verification((), {"figures": 0})
    differences = []
    for name, figure in figures.items():
        path = folder / f"{name}.html"
        if not path.is_file():
            differences.append(missing(path, "report"))
            continue
        stored, drawn = _text(path), html(name, figure)
        if stored != drawn:
            differences.append(Difference(str(path), _first_difference(stored, drawn)))
    return Verification(tuple(differences), {"figures": len(figures)})


def compare_report(
    path: Path,
    report: Report[Any, Any],
    config: Any,
    tables: Tables,
    claims: Sequence[Claim],
    provenance: dict[str, Any],
    figures: Mapping[str, go.Figure],
) -> Verification:
    """Write a report again, and compare its HTML. Without a stored one there is nothing to compare."""
    if not path.is_file():
        return Verification((), {"reports": 0})
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        write_report(again, report, config, tables, claims, provenance, figures)
        stored, drawn = _text(path), _text(again)
    differences = () if stored == drawn else (Difference(str(path), _first_line(stored, drawn)),)
    return Verification(differences, {"reports": 1})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _first_difference(stored: str, drawn: str) -> str:
    """Which value of which trace differs, or which line if the stored page holds no figure any more."""
    try:
        theirs, ours = _traces(stored), _traces(drawn)
    except (ValueError, TypeError):
        return _first_line(stored, drawn)
    for i, (their_trace, our_trace) in enumerate(zip(theirs, ours, strict=False)):
        for field in dict.fromkeys([*our_trace, *their_trace]):
            value, redrawn = their_trace.get(field), our_trace.get(field)
            if value != redrawn:
                place = f"{field} of trace {i} ({our_trace.get('name', i)})"
                return f"{place}: stored {_short(value)}, redrawn {_short(redrawn)}"
    if len(theirs) != len(ours):
        return f"stored {len(theirs)} traces, redrawn {len(ours)}"
    return _first_line(stored, drawn)


def _traces(page: str) -> list[dict[str, Any]]:
    """The data of a plotly page."""
    call = re.search(r"Plotly\.newPlot\(\s*\"[^\"]*\",\s*", page)
    if call is None:
        raise ValueError("no figure")
    traces, _ = json.JSONDecoder().raw_decode(page, call.end())
    if not all(isinstance(trace, dict) for trace in traces):
        raise ValueError("no traces")
    return traces


def _first_line(stored: str, drawn: str) -> str:
    theirs, ours = stored.split("\n"), drawn.split("\n")
    line = next(
        (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
    )
    return f"line {line + 1} differs from what is drawn now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
