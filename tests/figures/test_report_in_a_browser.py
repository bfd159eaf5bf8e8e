"""The report as somebody sees it. ``REVLENS_PICTURES=DIR`` keeps pictures of it, to be looked at."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from figures.chromium import CHROMIUM, Page, opened
from revlens.experiment import ArmTables, ExperimentConfig, assess
from revlens.figures import REPORTS, draw_all, write_report
from revlens.training import ARMS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
LAYERS = "document.getElementById('figure-alignment_by_layer_and_arm')"


@pytest.fixture(scope="module")
def report(config: ExperimentConfig, results: ArmTables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = dict(results.tables)
    tables["replies"] = results["replies"].copy()
    first = tables["replies"]["prompt"] == tables["replies"]["prompt"].iloc[0]
    tables["replies"].loc[first, "reply"] = ATTACK
    path = tmp_path_factory.mktemp("report") / "report.html"
    report, claims = REPORTS["arms"], assess(config, results)
    write_report(path, report, config, ArmTables(tables), claims, {}, draw_all(report, results))
    return path


def test_it_is_drawn_fits_and_answers(report: Path, tmp_path: Path) -> None:
    asyncio.run(_look(report, Path(os.environ.get("REVLENS_PICTURES", tmp_path))))


async def _look(report: Path, pictures: Path) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    async with opened() as page:
        await page.look(1280)
        await page.open(report)
        await _everything_is_drawn(page)
        await _the_slider_moves(page)
        await _replies_can_be_read(page)
        for width, dark in ((1280, False), (1280, True), (800, False), (400, True)):
            await page.look(width, dark=dark)
            await page.until("document.documentElement.dataset.drawn === 'yes'", settle=0.5)
            await _nothing_overflows(page)
            assert (await page.run("document.documentElement.dataset.theme") == "dark") is dark
            await page.picture(pictures / f"report-{width}-{'dark' if dark else 'light'}.png")
        await page.run("document.getElementById('theme').click()")
        assert await page.run("document.documentElement.dataset.theme") == "light"
        await page.printed(pictures / "report.pdf")
        assert page.complaints == []


async def _everything_is_drawn(page: Page) -> None:
    marks = await page.run(
        "Object.fromEntries([...document.querySelectorAll('.plot')].map((plot) =>"
        "[plot.id, plot.querySelectorAll('.trace, .hm, .heatmaplayer image').length]))"
    )
    assert list(marks) == [f"figure-{plot.name}" for plot in REPORTS["arms"].plots]
    assert [name for name, n in marks.items() if n == 0] == []


async def _the_slider_moves(page: Page) -> None:
    before = await page.run(f"{LAYERS}.data[0].text.flat().join()")
    await page.run(
        f"{{const rail = {LAYERS}.querySelector('.slider-rail-touch-rect');"
        "const box = rail.getBoundingClientRect();"
        "const at = {bubbles: true, clientX: box.left + 3, clientY: box.top + 5};"
        "rail.dispatchEvent(new MouseEvent('mousedown', at));"
        f"{LAYERS}.dispatchEvent(new MouseEvent('mouseup', at))}}"
    )
    await page.until(f"{LAYERS}.data[0].text.flat().join() !== {before!r}", 5)
    assert await page.run(f"{LAYERS}.layout.sliders[0].active") == 0


async def _replies_can_be_read(page: Page) -> None:
    shown = "[...document.querySelectorAll('#reply-cards .card p')].map((reply) => reply.textContent)"
    assert await page.run(shown) == [ATTACK] * len(ARMS)  # as text
    assert await page.run("document.title") != "taken"
    await page.run("document.getElementById('reply-after').click()")
    assert ATTACK not in await page.run(shown)
    await page.run("document.querySelector('#reply-arms input').click()")
    assert len(await page.run(shown)) == len(ARMS) - 1
    await page.run("document.querySelector('.squares i[data-prompt=\"0\"]').click()")
    assert await page.run(shown) == [ATTACK] * (len(ARMS) - 1)
    await page.run(
        "{const step = document.getElementById('reply-step'); step.value = 0;"
        "step.dispatchEvent(new Event('input'))}"
    )
    assert await page.run("document.getElementById('reply-step-name').textContent") == "0"
    await page.run(
        "{const view = document.getElementById('reply-view'); view.value = 2;"
        "view.dispatchEvent(new Event('change'))}"
    )
    assert not await page.run("document.getElementById('reply-step').checkVisibility()")  # it has no steps
    names = await page.run(
        "[...document.querySelectorAll('#reply-cards header b')].map((one) => one.textContent)"
    )
    assert names[0] == "tuned, as it is"
    outcomes = await page.run("document.querySelectorAll('#reply-cards .card header span').length")
    assert outcomes == len(names) == 6


async def _nothing_overflows(page: Page) -> None:
    """Neither the page, nor a text that stands out of its box; figures and tables scroll in theirs."""
    out = await page.run(
        "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll, nav, pre, select')"
        "&& one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)"
        ".map((one) => one.tagName + '.' + one.className)"
    )
    assert out == []
    assert await page.run("document.documentElement.scrollWidth <= innerWidth")
