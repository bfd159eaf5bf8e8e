"""Figures as files: HTML always, PNG and SVG where a Chromium is installed."""

from __future__ import annotations

from collections.abc import Sequence
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
    pairs = [
        (figure, folder / f"{name}.{kind}") for name, figure in figures.items() for kind in ("png", "svg")
    ]
    problem = render([figure for figure, _ in pairs], [path for _, path in pairs], scales=[2.0] * len(pairs))
    return problem and f"No static images: {problem} The HTML figures are complete."


def render(figures: Sequence[go.Figure], paths: Sequence[Path], scales: Sequence[float]) -> str | None:
    """Write each figure as an image whose format its path's suffix says, all by one start of the browser.

    Args:
        figures: with a width and a height.
        paths: one each.
        scales: size of each image over that of its figure.

    Returns:
        None, or why nothing was written and what to do, in sentences.
    """
    try:
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError:
        return "kaleido is not installed; pip install 'revlens[images]'."
    try:
        pio.write_images(
            list(figures),
            list(paths),
            scale=list(scales),
            width=[figure.layout.width for figure in figures],
            height=[figure.layout.height for figure in figures],
        )
    except (ChromeNotFoundError, BrowserFailedError, RuntimeError) as error:
        for path in paths:
            path.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"kaleido needs a Chromium ({reason}). Install one and give the command again."
    return None
