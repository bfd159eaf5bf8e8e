"""Figures for a paper: the report's numbers and colours, in the size of a column."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
import pytest
from test_export import CHROMIUM, no_chromium

import revlens as rl
from revlens.errors import ConfigError, ResultsError, StorageError
from revlens.experiment import GuardTables, Results
from revlens.figures import paper
from revlens.figures.drift_plots import alignment_by_arm
from revlens.figures.guard_plots import trade_off
from revlens.storage import SCRATCH

RUN = Path(__file__).parents[2] / "docs" / "runs" / "embedded-avx2-world-0"
OF_ARMS = (
    paper.alignment_by_step,
    paper.refusals_by_step,
    paper.outcomes_by_step,
    paper.layer_by_step,
    paper.patching_by_layer,
)


@pytest.fixture(scope="module")
def loaded() -> Results:
    return rl.load_results(RUN)


@pytest.fixture(scope="module")
def loaded_study(loaded: Results, study_tables: GuardTables) -> Results:
    return replace(loaded, tables=study_tables)


@pytest.mark.parametrize("draw", OF_ARMS, ids=lambda draw: draw.__name__)
def test_a_figure_is_as_wide_as_its_column_with_type_that_can_be_read(
    draw: Callable[..., go.Figure], loaded: Results
) -> None:
    figure = draw(loaded)
    assert figure.layout.width == 6.75 * 72 if draw is paper.outcomes_by_step else 3.25 * 72
    assert figure.layout.height < 3 * 72
    assert not figure.layout.title.text
    assert len(figure.data) > 0
    sizes = [figure.layout.font.size, figure.layout.legend.font.size]
    sizes += [size for axis in figure.select_xaxes() for size in (axis.tickfont.size, axis.title.font.size)]
    assert set(sizes) == {7, 8}


def test_two_columns_are_wider(loaded: Results, loaded_study: Results) -> None:
    assert paper.layer_by_step(loaded, "double").layout.width == 6.75 * 72
    assert paper.guard_trade_off(loaded_study).layout.width == 6.75 * 72
    assert paper.guard_trade_off(loaded_study, "single").layout.width == 3.25 * 72
    assert len(list(paper.patching_by_layer(loaded).select_xaxes())) == 1
    assert len(list(paper.patching_by_layer(loaded, "double").select_xaxes())) == 3


def test_lines_and_colours_are_the_reports(loaded: Results, loaded_study: Results) -> None:
    arms = list(loaded["behaviour"]["arm"].unique())
    drawn, report = paper.alignment_by_step(loaded, arms=arms), alignment_by_arm(loaded.tables)  # type: ignore[arg-type]
    assert [(t.name, t.y, t.line.color) for t in drawn.data[:-1]] == [
        (t.name, t.y, t.line.color) for t in report.data
    ]
    front, reported = paper.guard_trade_off(loaded_study), trade_off(loaded_study.tables)  # type: ignore[arg-type]
    assert [(t.name, t.x, t.marker.color) for t in front.data] == [
        (t.name, t.x, t.marker.color) for t in reported.data
    ]


def test_the_papers_values_stand_beside_ours(loaded: Results) -> None:
    printed = paper.alignment_by_step(loaded).data[-1]
    assert sorted(zip(printed.x, printed.y, strict=True)) == [(1, 0.429), (20, 0.647), (100, 0.648)]
    ours = replace(loaded, claims=loaded.claims.assign(paper_value=float("nan")))
    assert paper.alignment_by_step(ours).data[-1].name == "random"


def test_results_that_cannot_be_drawn_are_named(loaded: Results, loaded_study: Results) -> None:
    with pytest.raises(ResultsError, match=r"needs results of `revlens study`"):
        paper.guard_trade_off(loaded)
    with pytest.raises(ResultsError, match=r"needs results of `revlens reproduce`"):
        paper.layer_by_step(loaded_study)
    with pytest.raises(ResultsError, match=r"no arm 'blok'; choose arms= among baseline, block, "):
        paper.refusals_by_step(loaded, arms=["baseline", "blok"])


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium or Chrome on this machine, so no static images")
def test_files_have_the_size_of_the_column(loaded: Results, tmp_path: Path) -> None:
    figure = paper.layer_by_step(loaded)
    paper.write(figure, tmp_path / "map.svg", tmp_path / "new" / "map.pdf")
    width, height = figure.layout.width, figure.layout.height
    assert f'width="{width:g}pt" height="{height:g}pt"' in (tmp_path / "map.svg").read_text()[:300]
    (box,) = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", (tmp_path / "new" / "map.pdf").read_bytes())
    assert [float(size) for size in box] == pytest.approx([width, height], abs=0.75)  # whole pixels
    assert not list(tmp_path.rglob(f"{SCRATCH}*"))


def test_what_cannot_be_written_leaves_the_old_file(
    loaded: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pio, "write_images", no_chromium)
    old = tmp_path / "map.svg"
    old.write_text("the old one")
    with pytest.raises(StorageError, match=r"map.svg cannot be written: kaleido needs a Chromium"):
        paper.write(paper.layer_by_step(loaded), old)
    with pytest.raises(ConfigError, match=r"map.jpg: expected a suffix of .svg, .pdf, .png"):
        paper.write(paper.layer_by_step(loaded), tmp_path / "map.jpg")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]
