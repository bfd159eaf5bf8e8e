from __future__ import annotations

import pytest

from revlens.experiment import MAIN_ACTION, PAIRS, ArmTables, effects_at_chosen
from revlens.figures.causal_plots import (
    ablation_against_controls,
    behaviour_under_interventions,
    dose_response,
    patching_heat_maps,
    patching_parts,
    patching_per_prompt,
    vocabulary_scores,
)


def test_a_heat_map_for_each_pair_marks_what_is_significant_in_every_run(results: ArmTables) -> None:
    rows = results["patching"]
    rows = rows[(rows["component"] == "resid_post") & (rows["part"] == "full")]
    for heat, pair in zip(patching_heat_maps(results).data, PAIRS, strict=True):
        cells = rows[rows["pair"] == pair].groupby(["layer", "position"])
        shares = cells["effect"].mean() / cells["gap"].mean()
        assert heat.z.ravel().tolist() == pytest.approx(shares.tolist())
        marked = [text.endswith("•") for text in heat.text.ravel()]
        assert marked == cells["significant"].all().tolist()


def test_every_part_has_bars_in_every_panel(results: ArmTables) -> None:
    figure = patching_parts(results)
    assert [trace.name for trace in figure.data] == ["full", "along", "orthogonal"] * len(PAIRS)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["full", "along", "orthogonal"]


def test_shares_have_intervals_only_where_the_gap_is_clear_of_zero(results: ArmTables) -> None:
    patching = results["patching"]
    clear = patching.assign(gap=patching["gap"].abs() + 1.0)
    crossing = clear.assign(gap=clear["gap"].where(clear["seed"] == 0, -3.0))
    for table, drawn in ((clear, True), (crossing, False)):
        figure = patching_parts(ArmTables(results.tables | {"patching": table}))
        assert [trace.error_y.array is not None for trace in figure.data] == [drawn] * 3 * len(PAIRS)


def test_r2_of_single_prompts_is_drawn_like_the_shares(results: ArmTables) -> None:
    figure = patching_per_prompt(results)
    assert [trace.name for trace in figure.data] == ["full", "along", "orthogonal"] * len(PAIRS)
    rows = results["patching"]
    rows = rows[(rows["component"] == "resid_post") & (rows["position"] == -1) & (rows["part"] == "along")]
    expected = rows[rows["pair"] == "remove"].groupby("layer")["r2"].mean()
    assert list(figure.data[4].y) == pytest.approx(expected.tolist())


def test_doses_begin_at_the_model_as_it_is(results: ArmTables) -> None:
    drawn = [trace for trace in dose_response(results).data if trace.name is not None]
    for model, panel in zip(MAIN_ACTION, ("x", "x2"), strict=True):
        rows = effects_at_chosen(results, model)
        start = rows.groupby("seed")["baseline"].first().mean()
        own = [trace for trace in drawn if trace.xaxis == panel]
        assert [trace.name for trace in own] == ["v_rev", "random", "covariance"]
        assert [trace.y[list(trace.x).index(0.0)] for trace in own] == pytest.approx([start] * 3)


def test_every_effect_is_a_point(results: ArmTables) -> None:
    n = sum(len(effects_at_chosen(results, model)) for model in MAIN_ACTION)
    assert sum(len(trace.y) for trace in ablation_against_controls(results).data) == n


def test_behaviour_is_drawn_for_the_chosen_and_for_all_layers(results: ArmTables) -> None:
    table = results["intervened"]
    for trace in behaviour_under_interventions(results).data:
        model = "tuned" if trace.xaxis == "x" else "aligned"
        role = "chosen" if trace.name == "chosen layer" else "all"
        rows = table[(table["model"] == model) & (table["role"] == role)]
        assert sum(trace.y) * rows["seed"].nunique() == pytest.approx(rows["harmfulness"].sum())


def test_the_readout_of_each_run_is_drawn_over_the_band_of_random_directions(results: ArmTables) -> None:
    band, *runs = vocabulary_scores(results).data
    assert (band.name, band.fill) == ("random directions, 95 %", "toself")
    assert len(runs) == results["readout"]["seed"].nunique()
