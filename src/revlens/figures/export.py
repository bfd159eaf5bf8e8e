"""Figures as files: HTML always, PNG and SVG where a Chromium is installed."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from revlens.storage import atomic_directory, seal


def draw(figures: dict[str, go.Figure], folder: Path) -> str | None:
    """Replace a folder by these figures, one HTML, PNG and SVG file each.

    Returns:
        None, or why there are no static images: no kaleido, no Chromium, or one that does not start. There is
        HTML in any case.
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


def _static_images(figures: dict[str, go.Figure], folder: Path) -> str | None:
    try:
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError:
        return (
            "No static images: kaleido is not installed (pip install 'revlens[images]'); "
            "the HTML figures are complete."
        )
    pairs = [
        (figure, folder / f"{name}.{kind}") for name, figure in figures.items() for kind in ("png", "svg")
    ]
    try:
        pio.write_images(
            [figure for figure, _ in pairs],
            [path for _, path in pairs],
            scale=2,
            width=[figure.layout.width for figure, _ in pairs],
            height=[figure.layout.height for figure, _ in pairs],
        )
    except (ChromeNotFoundError, BrowserFailedError, RuntimeError) as error:
        for _, path in pairs:
            path.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return (
            f"No static images: kaleido needs a Chromium ({reason}). Install one and give the command again; "
            "the HTML figures are complete."
        )
    return None
