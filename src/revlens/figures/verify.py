"""An audit of figures and report: drawn again from recomputed tables, and compared with the stored ones."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from revlens.experiment import (
    Difference,
    ExperimentConfig,
    Layout,
    Results,
    Verification,
    assess_all,
    provenance,
)
from revlens.figures.export import html
from revlens.figures.plots import drawable
from revlens.figures.report import write_report
from revlens.figures.study_plots import drawable_study
from revlens.figures.study_report import write_study_report
from revlens.study import StudyLayout, StudyTables, assess_study, load_config, made_by


def verify_figures(out: Path, results: Results | None) -> Verification[Any]:
    """Draw every figure and the report again, and compare them byte for byte. Those that were never drawn are not missed.

    Static images and plotly.js are not drawn again: their checksums are compared by `revlens.experiment.verify`.

    Args:
        out: the output folder.
        results: recomputed tables; None if there are none, and nothing is compared then.
    """
    layout = Layout(out)
    if results is None:
        return _NOTHING

    def write(path: Path) -> None:
        config = ExperimentConfig.load(layout.config)
        write_report(path, config, results, assess_all(results), provenance(config))

    return _compare(
        layout, {name: partial(plot, results) for name, plot in drawable(results).items()}, write, "report"
    )


def verify_study_figures(out: Path, tables: StudyTables | None) -> Verification[Any]:
    """As `verify_figures`, for those of a study.

    Args:
        out: the folder of its experiment.
        tables: recomputed; None if there are none, and nothing is compared then.
    """
    layout = StudyLayout(out)
    if tables is None:
        return _NOTHING

    def write(path: Path) -> None:
        config = load_config(layout)
        write_study_report(path, config, tables, assess_study(config, tables), made_by(config))

    return _compare(
        layout, {name: partial(plot, tables) for name, plot in drawable_study(tables).items()}, write, "study"
    )


_NOTHING: Verification[Any] = Verification((), {"figures": 0, "reports": 0})


def _compare(
    layout: Layout | StudyLayout,
    figures: Mapping[str, Callable[[], go.Figure]],
    write: Callable[[Path], None],
    verb: str,
) -> Verification[Any]:
    """The figures and the report of a folder against what is drawn, and written, now."""
    differences: list[Difference] = []
    figures = figures if layout.figures.is_dir() else {}
    for name, draw in figures.items():
        path = layout.figures / f"{name}.html"
        if not path.is_file():
            differences.append(Difference(str(path), f"is missing; run `revlens {verb}`"))
            continue
        stored, drawn = path.read_text(encoding="utf-8", errors="replace"), html(name, draw())
        if stored != drawn:
            differences.append(Difference(str(path), _first_difference(stored, drawn)))
    if layout.report.is_file():
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder) / "report.html"
            write(again)
            stored, drawn = (
                path.read_text(encoding="utf-8", errors="replace") for path in (layout.report, again)
            )
        if stored != drawn:
            differences.append(Difference(str(layout.report), _first_line(stored, drawn)))
    return Verification(
        tuple(differences), {"figures": len(figures), "reports": int(layout.report.is_file())}
    )


def _first_difference(stored: str, drawn: str) -> str:
    """Which value of which trace differs, or which line if the page holds no figure any more."""
    try:
        theirs, ours = _traces(stored), _traces(drawn)
    except (ValueError, TypeError):
        return _first_line(stored, drawn)
    for i, (their_trace, our_trace) in enumerate(zip(theirs, ours, strict=False)):
        for field in dict.fromkeys([*our_trace, *their_trace]):
            if their_trace.get(field) != our_trace.get(field):
                name = our_trace.get("name", i)
                return f"{field} of trace {i} ({name}): stored {_short(their_trace.get(field))}, redrawn {_short(our_trace.get(field))}"
    return (
        _first_line(stored, drawn)
        if len(theirs) == len(ours)
        else f"stored {len(theirs)} traces, redrawn {len(ours)}"
    )


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
