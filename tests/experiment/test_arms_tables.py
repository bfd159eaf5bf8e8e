from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import revlens as rl
from conftest import fine_tune_of
from revlens.behaviour import OUTCOMES
from revlens.direction import participation_ratio
from revlens.errors import ResultsError
from revlens.experiment import Arms, ArmTables, ExperimentConfig, tabulate
from revlens.experiment.arms.history import arm_history
from revlens.experiment.evaluation import MEASURES
from revlens.results import Layout
from revlens.storage import SUMS
from revlens.training import ARMS

SEED, ARM = 1, "block"  # the run that is computed again here
Axes = dict[str, Iterable[Any]]
N_LAYERS, D_MODEL = 2, 16  # of the tiny experiment's model


@pytest.fixture(scope="module")
def activations(layout: Layout) -> rl.Activations:
    return rl.Activations.open(layout.activations(SEED, ARM))


def of_run(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    chosen = {"seed": SEED, "arm": ARM} | where
    return table[np.logical_and.reduce([table[column] == value for column, value in chosen.items()])]


def along_step_and_layer(table: pd.DataFrame, column: str) -> torch.Tensor:
    return torch.tensor(table.pivot(index="step", columns="layer", values=column).to_numpy())


def axes(config: ExperimentConfig) -> dict[str, Axes]:
    """What a row of a table stands for: there is one for every combination of these values, and no other."""
    probes = config.subject.material().probes()
    run: Axes = {"seed": config.seeds, "arm": ARMS}
    step: Axes = {"step": config.steps}
    with_start: Axes = {"step": (0, *config.steps)}
    layer: Axes = {"layer": range(N_LAYERS)}
    return {
        "direction": {"seed": config.seeds} | layer,
        "alignment": run | step | layer | {"estimate": ("cross-fitted", "naive")},
        "nulls": run | step | {"null": ("isotropic", "isotropic-layers", "covariance", "relabelled")},
        "controls": run | step | layer | {"control": ("harmless", "foreign")},
        "behaviour": run | with_start,
        "training": run | {"step": range(1, config.steps[-1] + 1)},
        "phases": {"seed": config.seeds, "phase": ("reference", "aligned")},
        "replies": run | with_start | {"prompt": (*probes["behaviour"], *probes["harmless"])},
    }


def test_a_table_has_exactly_one_row_for_each_thing_it_is_about(
    config: ExperimentConfig, results: ArmTables
) -> None:
    for name, columns in axes(config).items():
        rows = results[name][list(columns)].itertuples(index=False, name=None)
        assert sorted(rows) == sorted(product(*columns.values())), name


def test_no_number_is_missing(config: ExperimentConfig, results: ArmTables) -> None:
    for name in axes(config):
        assert not results[name].isna().to_numpy().any(), name
        assert np.isfinite(results[name].select_dtypes("number").to_numpy()).all(), name


def test_results_hold_every_table_of_every_seed_and_no_other(
    config: ExperimentConfig, results: ArmTables
) -> None:
    assert results.tables.keys() == ArmTables.described.keys()
    for name, table in results.tables.items():
        if name == "association":
            assert set(table["n_runs"]) == {len(config.seeds)}
        else:
            assert set(table["seed"]) == set(config.seeds), name


def test_alignment_is_the_drift_along_v_rev_of_the_other_split(
    activations: rl.Activations, results: ArmTables, config: ExperimentConfig
) -> None:
    table = of_run(results["alignment"])
    for estimate, split in (("cross-fitted", "direction"), ("naive", "drift")):
        rows = table[table["estimate"] == estimate]
        back = activations.at("reference", split).mean(0) - activations.at("aligned", split).mean(0)
        start = activations.at("aligned", "drift").mean(0)
        moved = torch.stack(
            [activations.at(f"step-{step}", "drift").mean(0) - start for step in config.steps]
        )
        along = (moved * back).sum(-1) / back.norm(dim=-1)
        torch.testing.assert_close(
            along_step_and_layer(rows, "alignment"), torch.cosine_similarity(moved, back[None], dim=-1)
        )
        torch.testing.assert_close(along_step_and_layer(rows, "displacement"), along)
        torch.testing.assert_close(along_step_and_layer(rows, "fraction"), along / back.norm(dim=-1))
        torch.testing.assert_close(along_step_and_layer(rows, "drift_norm"), moved.norm(dim=-1))


def test_the_alignment_table_equals_the_public_functions(
    activations: rl.Activations, results: ArmTables, layout: Layout
) -> None:
    v_rev = rl.ReversionDirection.load(layout.v_rev(SEED))
    torch.testing.assert_close(rl.locate(activations).unit, v_rev.unit, rtol=0, atol=0)
    motion = rl.drift(activations, v_rev)
    rows = of_run(results["alignment"], estimate="cross-fitted")
    torch.testing.assert_close(along_step_and_layer(rows, "alignment"), motion.alignment, rtol=0, atol=0)
    torch.testing.assert_close(along_step_and_layer(rows, "fraction"), motion.fraction, rtol=0, atol=0)


def test_over_layers_is_the_mean_over_layers(results: ArmTables, config: ExperimentConfig) -> None:
    table = results.over_layers()
    assert list(table["arm"].unique()) == list(ARMS)
    by_layer = along_step_and_layer(of_run(results["alignment"], estimate="cross-fitted"), "alignment")
    assert of_run(table)["alignment"].tolist() == pytest.approx(by_layer.mean(-1).tolist())


def test_the_direction_table_equals_the_public_functions(
    activations: rl.Activations, results: ArmTables
) -> None:
    rows = results["direction"][results["direction"]["seed"] == SEED].sort_values("layer")
    split_half = rl.reliability(
        activations.at("reference", "direction"), activations.at("aligned", "direction")
    )
    assert rows["gap"].tolist() == rl.locate(activations).gap.tolist()
    assert rows["reliability"].tolist() == split_half.full.tolist()
    assert rows["reliability_low"].tolist() == split_half.low.tolist()
    reference, aligned = (activations.at(name, "direction") for name in ("reference", "aligned"))
    assert rows["dimensions_gap"].tolist() == participation_ratio(reference - aligned).tolist()
    assert rows["dimensions_aligned"].tolist() == participation_ratio(aligned).tolist()


def test_a_run_step_exceeds_a_null_when_its_alignment_does(results: ArmTables) -> None:
    table = results["nulls"]
    assert table["exceeds"].tolist() == (table["alignment"] > table["p99"]).astype(float).tolist()
    means = table.merge(results.over_layers(), on=["seed", "arm", "step"], suffixes=("", "_over_layers"))
    assert means["alignment"].tolist() == pytest.approx(means["alignment_over_layers"].tolist())
    fractions = table.merge(
        results.over_layers("fraction"), on=["seed", "arm", "step"], suffixes=("", "_over_layers")
    )
    assert fractions["fraction"].tolist() == pytest.approx(fractions["fraction_over_layers"].tolist())
    above = table["fraction"] > table["fraction_p99"]
    assert table["fraction_exceeds"].tolist() == above.astype(float).tolist()


def test_nulls_are_those_of_the_public_functions_with_the_materials_strata(
    activations: rl.Activations, results: ArmTables, config: ExperimentConfig
) -> None:
    assert isinstance(config.plan, Arms)
    v_rev = rl.locate(activations)
    motion, strata = rl.drift(activations, v_rev), config.subject.material().strata()["direction"]
    reference, aligned = (activations.at(name, "direction") for name in ("reference", "aligned"))
    for name, null in rl.nulls.NULLS.items():
        rows = of_run(results["nulls"], null=name)
        for column, gap in (("p99", None), ("fraction_p99", v_rev.gap)):
            p99 = null.quantile(
                motion.vectors, reference, aligned, gap=gap, strata=strata,
                n_draws=config.plan.n_null_draws, seed=SEED,
            )  # fmt: skip
            assert rows[column].tolist() == pytest.approx(p99.tolist()), (name, column)


def test_the_isotropic_threshold_is_the_exact_quantile(results: ArmTables, config: ExperimentConfig) -> None:
    exact = rl.nulls.isotropic_quantile(D_MODEL)
    assert set(results["nulls"].loc[results["nulls"]["null"] == "isotropic", "p99"]) == {exact}


def test_controls_are_cosines_with_the_directions_they_name(
    activations: rl.Activations, results: ArmTables, layout: Layout
) -> None:
    motion = rl.drift(activations, rl.locate(activations))
    foreign = rl.ReversionDirection.load(
        layout.v_rev(1 - SEED)
    ).unit  # of two seeds, the mean over the others is the other one
    for control, direction in (("harmless", rl.locate(activations, "harmless").unit), ("foreign", foreign)):
        cosines = torch.cosine_similarity(motion.vectors, direction[None], dim=-1)
        torch.testing.assert_close(
            along_step_and_layer(of_run(results["controls"], control=control), "cosine"), cosines
        )


def test_every_arm_starts_at_the_aligned_model(results: ArmTables) -> None:
    start = results["behaviour"][results["behaviour"]["step"] == 0]
    aligned = results["phases"][results["phases"]["phase"] == "aligned"].set_index("seed")
    measures = [name for name in MEASURES if name in start]
    for row in start.to_dict("records"):
        assert {name: row[name] for name in measures} == aligned.loc[row["seed"], measures].to_dict()
    replies = results["replies"][results["replies"]["step"] == 0]
    assert replies.groupby(["seed", "prompt"])["reply"].nunique().eq(1).all()


def test_rates_are_those_of_the_kept_replies(results: ArmTables) -> None:
    rates = results["behaviour"].set_index(["seed", "arm", "step"])
    for (seed, arm, step, split), rows in results["replies"].groupby(["seed", "arm", "step", "split"]):
        shares = rows["outcome"].value_counts(normalize=True)
        for outcome in OUTCOMES if split == "behaviour" else ("refusal",):
            name = outcome if split == "behaviour" else "over_refusal"
            assert rates.loc[(seed, arm, step), name] == pytest.approx(shares.get(outcome, 0.0))


def test_harm_holds_compliance_and_what_is_substantive(results: ArmTables) -> None:
    rates = pd.concat([results[name] for name in ("behaviour", "phases", "intervened")])
    assert (rates[list(OUTCOMES)].sum(axis=1) - 1).abs().max() < 1e-9
    assert (rates["harmfulness"] >= rates["compliance"] - 1e-9).all()
    assert (rates["harmfulness"] <= rates["compliance"] + rates["mixed"] + 1e-9).all()
    assert (rates["substantive_harm"] <= rates["harmfulness"] + 1e-9).all()


def test_every_judged_model_keeps_its_replies(results: ArmTables, config: ExperimentConfig) -> None:
    n_harmful = len(config.subject.material().probes()["behaviour"])
    for table, keys in (
        ("phase_replies", ["seed", "phase"]),
        ("intervened_replies", ["seed", "model", "action", "dose", "role", "site", "direction", "draw"]),
    ):
        rows = results[table][results[table]["split"] == "behaviour"]
        groups = rows.groupby(keys, dropna=False).size()
        assert (groups == n_harmful).all()
        assert len(groups) == len(results[table.replace("phase_replies", "phases").removesuffix("_replies")])


def test_the_parts_of_the_drift_add_up(results: ArmTables, config: ExperimentConfig) -> None:
    parts = results["drift_parts"].pivot_table(
        index=["seed", "arm", "step", "layer"], columns="part", values="displacement"
    )
    apart = parts["harmful"] - parts["harmless"]
    assert parts["separation"].to_numpy() == pytest.approx(apart.to_numpy(), abs=1e-5)
    harmful = of_run(results["alignment"], estimate="cross-fitted").sort_values(["step", "layer"])
    own = of_run(results["drift_parts"], part="harmful").sort_values(["step", "layer"])
    assert own["fraction"].tolist() == harmful["fraction"].tolist()
    reference = results["drift_parts"].query("part == 'reference'")
    assert set(reference["seed"]) == set(config.seeds)
    assert set(reference["arm"]) == {"baseline"}


def test_replies_are_what_the_checkpoint_says(results: ArmTables, config: ExperimentConfig) -> None:
    rows = of_run(results["replies"], step=config.steps[-1], split="behaviour")
    model = arm_history(config, fine_tune_of(config, SEED, ARM))[config.steps[-1]].load()
    again = rl.behaviour.generate(model, rows["prompt"].tolist(), max_new_tokens=config.reply_tokens)
    assert rows["reply"].tolist() == again


def test_arms_see_the_same_data_and_differ_by_their_term(results: ArmTables) -> None:
    losses = results["training"].pivot(index=["step", "seed"], columns="arm", values="loss")
    assert (
        losses.loc[1].nunique(axis="columns").eq(1).all()
    )  # before the first update there is only one model
    assert losses.loc[3, "push"].ne(losses.loc[3, "baseline"]).all()


def test_saving_and_loading_gives_equal_tables(results: ArmTables, tmp_path: Path) -> None:
    results.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.parquet" for name in ArmTables.described
    } | {SUMS}
    loaded = ArmTables.load(tmp_path)
    for name in ArmTables.described:
        pd.testing.assert_frame_equal(loaded[name], results[name], check_exact=True)


@pytest.mark.parametrize("name", ArmTables.described)
def test_a_missing_table_is_named(name: str, results: ArmTables, tmp_path: Path) -> None:
    results.save(tmp_path)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(ResultsError, match=f"No table '{name}' in .*; run `revlens analyse` first"):
        ArmTables.load(tmp_path)


@pytest.mark.parametrize(
    ("lost", "command"),
    [
        ("seed-1/v_rev.safetensors", "history"),
        ("seed-1/start.json", "history"),
        ("seed-1/block/losses.json", "finetune"),
        ("seed-1/block/activations/manifest.json", "capture"),
        (
            "seed-1/block/activations/step-3.drift.00000.safetensors",
            "capture",
        ),  # as a capture that was killed half way leaves it
        ("seed-1/block/behaviour.json", "behaviour"),
    ],
)
def test_a_missing_stage_is_an_error_that_names_its_command(
    lost: str, command: str, config: ExperimentConfig, layout: Layout, tmp_path: Path
) -> None:
    shutil.copytree(layout.out / "runs", tmp_path / "runs")
    (tmp_path / "runs" / lost).unlink()
    with pytest.raises(ResultsError, match=f"run `revlens {command}` first"):
        tabulate(config, Layout(tmp_path))
