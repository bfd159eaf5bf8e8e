from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from kaleido.errors import ChromeNotFoundError

from revlens.experiment import ExperimentConfig, Results
from revlens.figures import PLOTS, draw
from revlens.figures.style import ARM_COLOURS
from revlens.storage.checksums import SUMS
from revlens.training import ARMS

CHROMIUM = any(
    map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))
)
#: Figures with a band and a line for every arm, and how many panels they have.
BY_ARM = {
    "overview": 2,
    "alignment_by_arm": 1,
    "reversion_by_arm": 1,
    "behaviour_by_arm": 4,
    "training_loss": 1,
}


def lines(figure: go.Figure) -> list[Any]:
    """The named lines, without bands and markers."""
    return [trace for trace in figure.data if trace.name is not None and "lines" in (trace.mode or "")]


def numbers(trace: Any) -> np.ndarray:
    """Everything that a trace draws along y, or as colour."""
    drawn = [trace.z] if trace.type == "heatmap" else [trace.y, getattr(trace.error_y, "array", None)]
    return np.concatenate([np.ravel(values).astype(float) for values in drawn if values is not None])


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_draws_finite_numbers_under_a_title(name: str, results: Results) -> None:
    figure = PLOTS[name](results)
    assert figure.layout.title.text
    assert len(figure.data) > 0
    for trace in figure.data:
        values = numbers(trace)
        assert len(values) > 0
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", PLOTS)
def test_an_axis_has_a_title_or_words_along_it(name: str, results: Results) -> None:
    figure = PLOTS[name](results)
    words = all(isinstance(value, str) and not value.isdigit() for trace in figure.data for value in trace.x)
    assert words or any(axis.title.text for axis in figure.select_xaxes())
    y_titles = [axis.title.text for axis in figure.select_yaxes()]
    panel_titles = {note.text for note in figure.layout.annotations}
    assert any(y_titles) or len(panel_titles) == len(y_titles)


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_leaves_its_tables_as_they_were(name: str, results: Results) -> None:
    before = {table: rows.copy() for table, rows in results.tables.items()}
    PLOTS[name](results)
    for table, rows in before.items():
        pd.testing.assert_frame_equal(results[table], rows)


@pytest.mark.parametrize(("name", "panels"), BY_ARM.items())
def test_there_is_one_line_and_one_band_per_arm_and_panel(
    name: str, panels: int, results: Results, config: ExperimentConfig
) -> None:
    figure = PLOTS[name](results)
    assert [line.name for line in lines(figure)] == list(config.arms) * panels
    assert [line.line.color for line in lines(figure)] == [ARM_COLOURS[arm] for arm in config.arms] * panels
    assert len([trace for trace in figure.data if trace.fill == "toself"]) == len(config.arms) * panels
    assert [trace.name for trace in figure.data if trace.name and trace.showlegend] == list(
        config.arms
    )  # once each, also over panels


def test_every_arm_has_a_colour_of_its_own() -> None:
    assert set(ARMS) <= ARM_COLOURS.keys()
    assert len(set(ARM_COLOURS.values())) == len(ARM_COLOURS)


def test_lines_are_means_over_runs_and_bands_hold_every_interval(
    results: Results, config: ExperimentConfig
) -> None:
    table = results["alignment"]
    table = table[table["estimate"] == "cross-fitted"]
    means = table.groupby(["arm", "step"])["alignment"].mean()
    runs = table.groupby(["arm", "step", "seed"])["alignment"].mean()
    figure = PLOTS["alignment_by_arm"](results)
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    for line, band in zip(lines(figure), bands, strict=True):
        assert list(line.x) == list(config.steps)
        assert list(line.y) == pytest.approx(means[line.name].tolist())
        n = len(config.steps)
        high, low = band.y[:n], band.y[n:][::-1]
        assert list(band.x) == [*config.steps, *reversed(config.steps)]
        # Of two runs the interval is their range.
        assert list(high) == pytest.approx(runs[line.name].groupby("step").max().tolist())
        assert list(low) == pytest.approx(runs[line.name].groupby("step").min().tolist())


def test_the_overview_shows_alignment_left_and_harmfulness_right(
    results: Results, config: ExperimentConfig
) -> None:
    harm = results["behaviour"].groupby(["arm", "step"])["harmfulness"].mean()
    drawn, n_arms = lines(PLOTS["overview"](results)), len(config.arms)
    left, right = drawn[:n_arms], drawn[n_arms:]
    for line, other in zip(left, lines(PLOTS["alignment_by_arm"](results)), strict=True):
        assert (line.x, line.y) == (other.x, other.y)
    for line in right:
        assert list(line.x) == [0, *config.steps]
        assert list(line.y) == pytest.approx(harm[line.name].tolist())


def test_the_heat_map_has_a_row_per_layer_and_a_column_per_step(
    results: Results, config: ExperimentConfig
) -> None:
    (heat,) = PLOTS["alignment_by_layer"](results).data
    table = results["alignment"]
    rows = table[(table["arm"] == "baseline") & (table["estimate"] == "cross-fitted")]
    assert heat.x == tuple(map(str, config.steps))
    assert heat.y == ("0", "1", "2")
    for i, layer in enumerate(range(3)):
        for j, step in enumerate(config.steps):
            cell = rows[(rows["layer"] == layer) & (rows["step"] == step)]["alignment"]
            assert heat.z[i][j] == pytest.approx(cell.mean())


def test_every_run_is_drawn_against_the_mean_threshold_of_every_null(
    results: Results, config: ExperimentConfig
) -> None:
    table = results["nulls"]
    baseline = table[table["arm"] == "baseline"]
    figure = PLOTS["alignment_against_nulls"](results)
    runs = [trace for trace in figure.data if trace.legendgroup == "run"]
    assert [trace.hovertext for trace in runs] == [f"seed {seed}" for seed in config.seeds]
    thresholds = {trace.name: list(trace.y) for trace in figure.data if trace.line.dash == "dash"}
    for null, rows in baseline.groupby("null"):
        assert thresholds.pop(f"{null} null, p99") == pytest.approx(
            rows.groupby("step")["p99"].mean().tolist()
        )
    assert not thresholds


def test_the_scatter_has_a_point_per_run_arm_and_step(results: Results, config: ExperimentConfig) -> None:
    figure = PLOTS["harmfulness_against_alignment"](results)
    assert [trace.name for trace in figure.data] == list(config.arms)
    assert {len(trace.x) for trace in figure.data} == {len(config.seeds) * len(config.steps)}


def test_the_end_is_the_last_step(results: Results, config: ExperimentConfig) -> None:
    figure = PLOTS["end_by_arm"](results)
    table = results["behaviour"]
    last = table[table["step"] == config.steps[-1]]
    means = {
        trace.x[0]: trace.y[0]
        for trace in figure.data
        if trace.xaxis == "x2" and trace.marker.symbol == "diamond"
    }
    assert means == pytest.approx(last.groupby("arm")["harmfulness"].mean().to_dict())


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
