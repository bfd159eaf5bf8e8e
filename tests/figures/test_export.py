from __future__ import annotations

import shutil
import sys
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
import pytest
from kaleido.errors import ChromeNotFoundError

from revlens.figures import draw
from revlens.storage.checksums import SUMS

CHROMIUM = any(
    map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))
)


def no_chromium(figures: list[go.Figure], files: list[Path], **kwargs: object) -> None:
    files[0].write_bytes(b"half an image")
    raise ChromeNotFoundError("no Chromium here")


def bars(*heights: float) -> go.Figure:
    return go.Figure(go.Bar(y=list(heights)), layout={"width": 300, "height": 200})


def test_without_a_chromium_there_is_html_and_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pio, "write_images", no_chromium)
    message = draw({"first": bars(1.0), "second": bars(2.0)}, tmp_path / "figures")
    assert message is not None
    assert "No static images: kaleido needs a Chromium (no Chromium here)" in message
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "first.html",
        "second.html",
        "plotly.min.js",
        SUMS,
    }


def test_without_kaleido_there_is_html_and_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Static images are an optional extra of the package."""
    monkeypatch.setitem(sys.modules, "kaleido", None)
    monkeypatch.setitem(sys.modules, "kaleido.errors", None)
    assert "No static images" in (draw({"first": bars(1.0)}, tmp_path / "figures") or "")
    assert (tmp_path / "figures" / "first.html").is_file()


def test_pages_work_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pio, "write_images", no_chromium)
    draw({"first": bars(1.0)}, tmp_path)
    page = (tmp_path / "first.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert "http" not in page.replace("https://plot.ly", "")


def test_drawing_replaces_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pio, "write_images", no_chromium)
    draw({"old": bars(1.0)}, tmp_path / "figures")
    draw({"new": bars(1.0)}, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"new.html", "plotly.min.js", SUMS}
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


class Broken(go.Figure):
    def to_html(self, *args: object, **kwargs: object) -> str:
        raise ValueError("this figure does not draw")


def test_a_failing_figure_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pio, "write_images", no_chromium)
    draw({"old": bars(1.0)}, tmp_path / "figures")
    with pytest.raises(ValueError, match="does not draw"):
        draw({"new": bars(1.0), "broken": Broken()}, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"old.html", "plotly.min.js", SUMS}
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium or Chrome on this machine, so no static images")
def test_images_have_twice_the_size_of_their_figure(tmp_path: Path) -> None:
    assert draw({"bars": bars(1.0, 2.0)}, tmp_path) is None
    header = (tmp_path / "bars.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (600, 400)
    assert (tmp_path / "bars.svg").read_text().startswith("<svg")
