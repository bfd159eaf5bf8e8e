from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from revlens.experiment import ArmTables, ExperimentConfig
from revlens.figures.style import method_colour
from revlens.figures.traces import add_methods, each_run, error_bars, error_bars_in, heat_map, runs_and_mean
from revlens.statistics import Estimate, mean_over_runs
from revlens.training import ARMS


def lines(figure: go.Figure) -> list[Any]:
    """The named lines, without bands and markers."""
    return [trace for trace in figure.data if trace.name is not None and "lines" in (trace.mode or "")]


def test_there_is_a_line_and_a_band_for_each_arm(results: ArmTables, config: ExperimentConfig) -> None:
    figure = go.Figure()
    add_methods(figure, results["behaviour"], "harmfulness")
    assert [line.name for line in lines(figure)] == list(ARMS)
    assert [line.line.color for line in lines(figure)] == [method_colour(arm) for arm in ARMS]
    assert len([trace for trace in figure.data if trace.fill == "toself"]) == len(ARMS)
    assert [trace.name for trace in figure.data if trace.name and trace.showlegend] == list(ARMS)


def test_lines_are_means_over_runs_and_bands_hold_every_interval(
    results: ArmTables, config: ExperimentConfig
) -> None:
    table, figure = results.over_layers(), go.Figure()
    add_methods(figure, table, "alignment")
    runs = table.groupby(["arm", "step", "seed"])["alignment"].mean()
    means = runs.groupby(["arm", "step"]).mean()
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


def test_error_bars_end_where_the_interval_does() -> None:
    bars = error_bars([Estimate(0.5, 0.25, 1.0, 5)])
    assert bars == {"array": [0.5], "arrayminus": [0.25]}
    stored = error_bars_in(pd.DataFrame({"auroc": [0.5], "auroc_low": [0.25], "auroc_high": [1.0]}), "auroc")
    assert {name: list(values) for name, values in stored.items()} == bars


@pytest.mark.parametrize("across", [False, True])
def test_runs_lie_at_their_name_with_their_mean(across: bool) -> None:
    values = pd.Series([0.0, 0.5, 1.0])
    runs, mean = runs_and_mean("block", values, "#0072B2", across=across)
    along, at = ("x", "y") if across else ("y", "x")
    assert (list(runs[along]), list(runs[at])) == ([0.0, 0.5, 1.0], ["block"] * 3)
    estimate = mean_over_runs(values)
    assert (list(mean[along]), list(mean[at])) == ([estimate.value], ["block"])
    assert list(mean[f"error_{along}"].array) == [estimate.high - estimate.value]


def test_each_run_is_a_line_and_the_legend_names_them_once() -> None:
    rows = pd.DataFrame({"seed": [0, 0, 7, 7], "step": [1, 2, 1, 2], "value": [0.1, 0.2, 0.3, 0.4]})
    first, second = each_run(rows, "step", "value", name="a run")
    assert (list(first.y), list(second.y)) == ([0.1, 0.2], [0.3, 0.4])
    assert [trace.hovertext for trace in (first, second)] == ["seed 0", "seed 7"]
    assert (first.showlegend, second.showlegend) == (True, False)


def test_a_heat_map_prints_its_numbers_and_no_negative_zero() -> None:
    table = pd.DataFrame([[-0.001, 0.5], [1.0, -0.25]], index=[3, 4], columns=[1, 5])
    heat = heat_map(table, "cos")
    assert (heat.x, heat.y) == (("1", "5"), ("3", "4"))
    assert np.asarray(heat.text).tolist() == [["0.00", "0.50"], ["1.00", "-0.25"]]
    assert (heat.zmin, heat.zmax) == (-1, 1)
