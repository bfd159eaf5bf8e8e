"""Laws that every figure of the arms' report keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_traces import lines

from revlens.experiment import ArmTables, ExperimentConfig
from revlens.figures import REPORTS, drawable
from revlens.training import ARMS

PLOTS = {plot.name: plot for plot in REPORTS["arms"].plots}


def numbers(trace: Any) -> np.ndarray:
    """Everything that a trace draws along y, or as colour."""
    drawn = [trace.z] if trace.type == "heatmap" else [trace.y, getattr(trace.error_y, "array", None)]
    return np.concatenate([np.ravel(values).astype(float) for values in drawn if values is not None])


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_draws_finite_numbers_under_a_title(name: str, results: ArmTables) -> None:
    figure = PLOTS[name].draw(results)
    assert figure.layout.title.text
    assert len(figure.data) > 0
    for trace in figure.data:
        values = numbers(trace)
        assert len(values) > 0
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", PLOTS)
def test_an_axis_has_a_title_or_words_along_it(name: str, results: ArmTables) -> None:
    figure = PLOTS[name].draw(results)
    words = all(isinstance(value, str) and not value.isdigit() for trace in figure.data for value in trace.x)
    assert words or any(axis.title.text for axis in figure.select_xaxes())
    y_titles = [axis.title.text for axis in figure.select_yaxes()]
    panel_titles = {note.text for note in figure.layout.annotations}
    assert any(y_titles) or len(panel_titles) == len(y_titles)


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_leaves_its_tables_as_they_were(name: str, results: ArmTables) -> None:
    before = {table: rows.copy() for table, rows in results.tables.items()}
    PLOTS[name].draw(results)
    for table, rows in before.items():
        pd.testing.assert_frame_equal(results[table], rows)


#: Figures with a band and a line for every arm, and how many panels they have.
BY_ARM = {
    "overview": 2,
    "alignment_by_arm": 1,
    "reversion_by_arm": 1,
    "behaviour_by_arm": 5,
    "training_loss": 1,
}


@pytest.mark.parametrize(("name", "panels"), BY_ARM.items())
def test_there_is_one_line_and_one_band_per_arm_and_panel(
    name: str, panels: int, results: ArmTables, config: ExperimentConfig
) -> None:
    figure = PLOTS[name].draw(results)
    assert [line.name for line in lines(figure)] == list(ARMS) * panels
    assert len([trace for trace in figure.data if trace.fill == "toself"]) == len(ARMS) * panels
    named_once = [trace.name for trace in figure.data if trace.name and trace.showlegend]
    assert named_once == list(ARMS)  # also over panels


def test_names_are_unique_and_captions_are_sentences() -> None:
    for report in REPORTS.values():
        names = [plot.name for plot in report.plots]
        assert len(set(names)) == len(names)
        assert all(plot.caption.endswith(".") for plot in report.plots)


def test_a_plot_is_drawable_where_its_needs_are_met(results: ArmTables) -> None:
    nothing_trained = ArmTables(results.tables | {"training": results["training"].iloc[:0]})
    left = {plot.name for plot in drawable(REPORTS["arms"], nothing_trained)}
    assert left == PLOTS.keys() - {"training_loss"}
    assert {plot.name for plot in drawable(REPORTS["arms"], results)} == PLOTS.keys()
