from __future__ import annotations

import pytest
from test_traces import lines

from revlens.experiment import ArmTables, ExperimentConfig
from revlens.figures.drift_plots import alignment_by_arm
from revlens.figures.summary_plots import end_by_arm, harmfulness_against_alignment, overview
from revlens.training import ARMS


def test_the_overview_shows_alignment_left_and_clean_refusals_right(
    results: ArmTables, config: ExperimentConfig
) -> None:
    refusals = results["behaviour"].groupby(["arm", "step"])["refusal"].mean()
    drawn, arms = lines(overview(results)), ("baseline", "block", "push", "random")
    left, right = drawn[: len(arms)], drawn[len(arms) :]
    assert tuple(line.name for line in left) == tuple(line.name for line in right) == arms
    by_arm = {line.name: line for line in lines(alignment_by_arm(results))}
    for line in left:
        assert (line.x, line.y) == (by_arm[line.name].x, by_arm[line.name].y)
    for line in right:
        assert list(line.x) == [0, *config.steps]
        assert list(line.y) == pytest.approx(refusals[line.name].tolist())


def test_the_scatter_has_a_point_per_run_arm_and_step(results: ArmTables, config: ExperimentConfig) -> None:
    figure = harmfulness_against_alignment(results)
    assert [trace.name for trace in figure.data] == list(ARMS)
    assert {len(trace.x) for trace in figure.data} == {len(config.seeds) * len(config.steps)}


def test_the_end_is_the_last_step(results: ArmTables, config: ExperimentConfig) -> None:
    figure = end_by_arm(results)
    table = results["behaviour"]
    last = table[table["step"] == config.steps[-1]]
    means = {
        trace.x[0]: trace.y[0]
        for trace in figure.data
        if trace.xaxis == "x2" and trace.marker.symbol == "diamond"
    }
    assert means == pytest.approx(last.groupby("arm")["harmfulness"].mean().to_dict())
