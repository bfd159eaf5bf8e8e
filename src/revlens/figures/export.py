"""Figures as files: HTML always, PNG and SVG where a Chromium is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from revlens.figures.images import write_images
from revlens.storage import atomic_directory, seal


def draw(figures: Mapping[str, go.Figure], folder: Path) -> str | None:
    """Replace a folder by these figures, one HTML, PNG and SVG file each.

    Returns:
        None, or why there are no static images: no choreographer, no Chromium, or one that does not start.
        There is HTML in any case.
    """
    with atomic_directory(folder) as partial:
        for name, figure in figures.items():
            (partial / f"{name}.html").write_text(html(name, figure), encoding="utf-8")
        (partial / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
        problem = _static_images(figures, partial)
        seal(partial)
    return problem


def html(name: str, figure: go.Figure) -> str:
    """The page of a figure, which needs plotly.min.js beside it."""
    return figure.to_html(include_plotlyjs="directory", div_id=name)


def _static_images(figures: Mapping[str, go.Figure], folder: Path) -> str | None:
    try:
        from choreographer.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    except ImportError:
        return (
            "No static images: choreographer is not installed (pip install 'revlens[images]'); "
            "the HTML figures are complete."
        )
    try:
        write_images(figures, folder)
    except (ChromeNotFoundError, BrowserFailedError, BrowserClosedError, TimeoutError, RuntimeError) as error:
        for path in (folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")):
            path.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return (
            f"No static images: they need a Chromium ({reason}). Install one and give the command again; "
            "the HTML figures are complete."
        )
    return None
