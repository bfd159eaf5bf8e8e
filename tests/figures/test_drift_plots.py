from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
import pytest

from revlens.errors import ResultsError
from revlens.experiment import ArmTables, ExperimentConfig
from revlens.figures import REPORTS
from revlens.figures.drift_plots import (
    alignment_against_nulls,
    alignment_by_layer,
    alignment_by_layer_and_arm,
    controls,
)
from revlens.figures.report import draw_all


def test_the_heat_map_has_a_row_per_layer_and_a_column_per_step(
    results: ArmTables, config: ExperimentConfig
) -> None:
    (heat,) = alignment_by_layer(results).data
    table = results["alignment"]
    rows = table[(table["arm"] == "baseline") & (table["estimate"] == "cross-fitted")]
    assert heat.x == tuple(map(str, config.steps))
    assert heat.y == ("0", "1")
    for i, layer in enumerate(range(2)):
        for j, step in enumerate(config.steps):
            cell = rows[(rows["layer"] == layer) & (rows["step"] == step)]["alignment"]
            assert heat.z[i][j] == pytest.approx(cell.mean())


def test_every_run_is_drawn_against_the_mean_threshold_of_every_null(
    results: ArmTables, config: ExperimentConfig
) -> None:
    table = results["nulls"]
    baseline = table[table["arm"] == "baseline"]
    figure = alignment_against_nulls(results)
    runs = [trace for trace in figure.data if trace.legendgroup == "run"]
    assert [trace.hovertext for trace in runs] == [f"seed {seed}" for seed in config.seeds]
    thresholds = {trace.name: list(trace.y) for trace in figure.data if trace.line.dash == "dash"}
    for null, rows in baseline.groupby("null"):
        assert thresholds.pop(f"{null} null, p99") == pytest.approx(
            rows.groupby("step")["p99"].mean().tolist()
        )
    assert not thresholds


@pytest.mark.parametrize(
    ("table", "column", "draw"),
    [("nulls", "null", alignment_against_nulls), ("controls", "control", controls)],
)
def test_a_null_or_control_without_a_colour_is_not_left_out(
    table: str, column: str, draw: Callable[[ArmTables], go.Figure], results: ArmTables
) -> None:
    renamed = results[table].assign(**{column: "another"})
    with pytest.raises(ResultsError, match="cannot draw 'another'"):
        draw(ArmTables(results.tables | {table: renamed}))


def test_the_baseline_is_drawn_against_every_control(results: ArmTables) -> None:
    figure = controls(results)
    named = [trace.name for trace in figure.data if trace.name is not None]
    assert named == ["v_rev", *results["controls"]["control"].unique()]


def test_a_control_that_is_captured_at_fewer_steps_leaves_its_place_empty(
    results: ArmTables, config: ExperimentConfig
) -> None:
    few = {
        name: rows.drop(rows.index[(rows["arm"] == "random") & (rows["step"] == config.steps[0])])
        if {"arm", "step"} <= set(rows)
        else rows
        for name, rows in results.tables.items()
    }
    tables = ArmTables(few)
    assert set(draw_all(REPORTS["arms"], tables)) == set(draw_all(REPORTS["arms"], results))
    figure = alignment_by_layer_and_arm(tables)
    for step in figure.layout.sliders[0].steps:
        text = {row[figure.data[0].x.index("random")] for row in step.args[0]["text"][0]}
        assert (text == {""}) is (step.label == str(config.steps[0]))
