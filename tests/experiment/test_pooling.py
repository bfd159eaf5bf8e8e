"""Outputs of several worlds read as one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from revlens.errors import ResultsError
from revlens.experiment import ArmTables, ExperimentConfig, assess, pool
from revlens.organism import OrganismConfig
from revlens.results import Layout, to_records
from revlens.storage import write_listed_json


def in_world(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    subject = config.subject
    assert isinstance(subject, OrganismConfig)
    return replace(config, subject=replace(subject, world=replace(subject.world, seed=seed)))


def output(folder: Path, config: ExperimentConfig, tables: ArmTables) -> Path:
    layout = Layout(folder)
    layout.results.mkdir(parents=True)
    config.save(layout.config)
    tables.save(layout.results)
    write_listed_json(layout.results / "claims.json", to_records(assess(config, tables)))
    write_listed_json(layout.results / "provenance.json", {"config": {"plan": {"type": "Arms"}}, "seeds": []})
    return folder


@pytest.fixture
def worlds(config: ExperimentConfig, results: ArmTables, tmp_path: Path) -> list[Path]:
    """Two worlds, in the second of which the drift is twice as far along v_rev."""
    stronger = results["alignment"].assign(fraction=2.0 * results["alignment"]["fraction"])
    other = ArmTables({**results.tables, "alignment": stronger})
    return [
        output(tmp_path / "first", config, results),
        output(tmp_path / "second", in_world(config, 1), other),
    ]


def test_runs_of_all_worlds_are_runs_of_one_experiment(
    worlds: list[Path], config: ExperimentConfig, results: ArmTables
) -> None:
    pooled, tables = pool(worlds)
    assert pooled.seeds == (0, 1, 2, 3)
    for name, table in results.tables.items():
        if name != "association":
            assert len(tables[name]) == 2 * len(table), name
    second = tables["alignment"].query("seed >= 2")
    expected = 2.0 * results["alignment"]["fraction"]
    pd.testing.assert_series_equal(second["fraction"].reset_index(drop=True), expected)

    of_one = {claim.key: claim.estimate for claim in assess(config, results)}
    of_both = {claim.key: claim.estimate for claim in assess(pooled, tables)}
    key = f"fraction-{config.steps[-1]}"
    assert of_both[key].n == 2 * of_one[key].n
    assert of_both[key].value == pytest.approx(1.5 * of_one[key].value)


def test_results_without_their_output_are_pooled_alike(worlds: list[Path]) -> None:
    for out in worlds:
        shutil.copy(out / "config.json", out / "results")
    _, tables = pool([out / "results" for out in worlds])
    for name, table in pool(worlds)[1].tables.items():
        pd.testing.assert_frame_equal(tables[name], table)


def test_one_world_twice_is_no_replication(worlds: list[Path], config: ExperimentConfig) -> None:
    with pytest.raises(ResultsError, match=r"Worlds \[0, 0\] must be distinct"):
        pool([worlds[0], worlds[0]])


def test_another_experiment_is_not_pooled(
    worlds: list[Path], config: ExperimentConfig, results: ArmTables, tmp_path: Path
) -> None:
    longer = output(tmp_path / "longer", replace(in_world(config, 2), reply_tokens=5), results)
    with pytest.raises(ResultsError, match="differs from .* in more than its world and its seeds"):
        pool([*worlds, longer])


def test_nothing_to_pool() -> None:
    with pytest.raises(ResultsError, match="name the folder of each"):
        pool([])
