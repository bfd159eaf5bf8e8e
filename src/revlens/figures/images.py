"""Figures as PNG and SVG, drawn by one page of a headless Chromium.

kaleido loads plotly.js again for every image, which takes several times as long as drawing them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

#: Pixels of a PNG to one of its figure.
_SCALE = 2
#: Seconds in which the page answers, at most.
_PATIENCE = 90.0


def write_images(figures: Mapping[str, go.Figure], folder: Path) -> None:
    """Write a PNG and an SVG file of every figure.

    Raises:
        ImportError: without choreographer.
        RuntimeError: on an error in the page; see `choreographer.errors` for those of starting a browser.
        TimeoutError: if the page does not answer.
    """
    # In a thread of its own: a notebook's thread already runs an event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _draw(figures, folder)).result()


async def _draw(figures: Mapping[str, go.Figure], folder: Path) -> None:
    from choreographer import Browser

    async with Browser() as browser:
        tab = await browser.create_tab("about:blank")
        await _evaluate(tab, f"{get_plotlyjs()}; ''")
        for name, figure in figures.items():
            svg = await _evaluate(tab, _image(figure, "svg"))
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            png = await _evaluate(tab, _image(figure, "png"))
            (folder / f"{name}.png").write_bytes(base64.b64decode(png))


def _image(figure: go.Figure, kind: str) -> str:
    """A script that evaluates to the figure's image, an SVG as text and a PNG as base64."""
    layout = figure.layout
    options = {"format": kind, "width": layout.width, "height": layout.height, "scale": _SCALE}
    return f"Plotly.toImage({figure.to_json()}, {json.dumps(options | {'imageDataOnly': True})})"


async def _evaluate(tab: Any, script: str) -> str:
    command = {"expression": script, "awaitPromise": True, "returnByValue": True}
    answer = await asyncio.wait_for(tab.send_command("Runtime.evaluate", command), _PATIENCE)
    result = answer.get("result", {})
    if "error" in answer or "exceptionDetails" in result:
        raise RuntimeError(f"the page could not draw: {json.dumps(answer)[:300]}")
    return str(result["result"]["value"])
