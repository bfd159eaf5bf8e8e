"""A page in a headless Chromium, driven through the DevTools protocol as kaleido does."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from choreographer import Browser
from choreographer.browser_async import Tab

CHROMIUM = next(
    filter(
        None,
        map(
            shutil.which,
            ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
        ),
    ),
    None,
)


class Page:
    """An open page.

    Attributes:
        complaints: errors and warnings that scripts and the browser wrote so far.
    """

    def __init__(self, tab: Tab) -> None:
        self._tab = tab
        self.complaints: list[str] = []

    async def _send(self, command: str, **params: Any) -> Any:
        response = await self._tab.send_command(command, params)
        assert "error" not in response, response
        return response["result"]

    async def listen(self) -> None:
        """Collect what is complained about from now on."""
        for event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self._tab.subscribe(event, self._note, repeating=True)
        for domain in ("Page", "Runtime", "Log"):
            await self._send(f"{domain}.enable")

    async def _note(self, message: Any) -> None:
        params = message["params"]
        kind = params.get("type") or params.get("entry", {}).get("level") or "error"
        if kind in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params)[:500])

    async def look(self, width: int, *, dark: bool = False, height: int = 900) -> None:
        """See it at a width, as somebody who prefers light or dark."""
        await self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._send("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, path: Path) -> None:
        await self._send("Page.navigate", url=path.as_uri())
        await self.until("document.documentElement?.dataset.drawn === 'yes'")

    async def run(self, script: str) -> Any:
        """What a script evaluates to; a promise is awaited."""
        result = await self._send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, condition: str, seconds: float = 180.0, *, settle: float = 0.0) -> None:
        """Wait until a script is true; ``settle`` seconds before, for what begins late."""
        await asyncio.sleep(settle)
        for _ in range(int(seconds / 0.1)):
            if await self.run(f"Boolean({condition})"):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"after {seconds:g} s still not: {condition}; {self.complaints}")

    async def picture(self, path: Path) -> None:
        """All of the page, from top to bottom."""
        image = await self._send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(image["data"]))

    async def printed(self, path: Path) -> None:
        """As a PDF, on A4."""
        pdf = await self._send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        path.write_bytes(base64.b64decode(pdf["data"]))


@asynccontextmanager
async def opened() -> AsyncIterator[Page]:
    """An empty page."""
    async with Browser(path=CHROMIUM, headless=True) as browser:
        page = Page(await browser.create_tab())
        await page.listen()
        yield page
