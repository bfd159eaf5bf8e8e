"""A whole study of the tiny experiment: its files, resumption, and numbers equal to those of the arms."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from revlens.cli import main
from revlens.direction import ReversionDirection
from revlens.errors import ResultsError
from revlens.experiment import (
    ExperimentConfig,
    Guards,
    GuardTables,
    analyse_and_save,
    assess,
    run_experiment,
)
from revlens.experiment.guards import directions, finetune
from revlens.experiment.units import OtherDirection
from revlens.results import Layout
from revlens.storage import SUMS, damages, listed_file
from revlens.sweeps import InThisProcess


@pytest.fixture
def copy(studied: Layout, tmp_path: Path) -> Layout:
    """The study in a folder that a test may change."""
    shutil.copytree(studied.out, tmp_path / "study")
    return Layout(tmp_path / "study")


def test_every_fine_tune_has_a_record_and_every_table_rows_of_every_seed(
    study: ExperimentConfig, studied: Layout, study_tables: GuardTables
) -> None:
    fine_tunes = study.fine_tunes()
    assert all(studied.record(fine_tune.seed, fine_tune.label).is_file() for fine_tune in fine_tunes)
    for name in set(GuardTables.described) - {"failures", "early_warning"}:
        assert set(study_tables[name]["seed"]) == set(study.seeds), name
    assert len(study_tables["failures"]) == 0
    judged = sum(len(fine_tune.marks) for fine_tune in fine_tunes)
    assert len(study_tables["behaviour"]) == judged
    probes = study.subject.material().probes()
    asked = len(probes["behaviour"]) + len(probes["harmless"])
    assert len(study_tables["replies"]) == judged * asked


def test_units_that_run_at_the_same_time_write_in_no_folder_twice(
    study: ExperimentConfig, studied: Layout
) -> None:
    """Each would rewrite the list of the other's files."""
    folders = {path.parent for path in studied.runs.rglob("*") if path.is_file()}
    n_seeds = len(study.seeds)
    assert len(folders) == n_seeds + n_seeds * len(study.plan.directions) + len(study.fine_tunes())
    for folder in folders:
        files = {path.name for path in folder.iterdir() if path.is_file()}
        assert (folder / SUMS).read_text().count("\n") == len(files) - 1
        assert damages(folder) == []


def test_saved_tables_are_the_tables(copy: Layout, study_tables: GuardTables) -> None:
    analyse_and_save(copy.out)
    loaded = GuardTables.load(copy.results)
    for name in GuardTables.described:
        ours, theirs = (table[name].fillna(-1).to_dict("list") for table in (loaded, study_tables))
        assert ours == theirs


def test_headline_claims_come_first(study: ExperimentConfig, study_tables: GuardTables) -> None:
    claims = assess(study, study_tables)
    marks = [claim.headline for claim in claims]
    assert 1 <= sum(marks) <= 5, [claim.key for claim in claims]
    assert marks == sorted(marks, reverse=True)


def test_the_grids_arms_are_those_of_reproduce(
    layout: Layout, study_tables: GuardTables, config: ExperimentConfig
) -> None:
    """A fine-tune of the study equals `revlens finetune` and `revlens behaviour` to the last bit.

    Start, data, order, optimizer and guard are the same.
    """
    grid = study_tables.part("behaviour", "grid").set_index(["method", "seed"])
    replies = study_tables.part("replies", "grid").set_index(["method", "seed"])
    for arm in ("baseline", "block"):
        for seed in config.seeds:
            last = json.loads(layout.behaviour(seed, arm).read_text())[-1]
            for measure in ("task_loss", "harmfulness", "refusal"):
                assert grid.loc[(arm, seed), measure] == last["measures"][measure]
            replied = [reply for split in last["replies"].values() for reply in split]
            assert replies.loc[(arm, seed), "reply"].tolist() == replied


def test_a_released_guard_and_the_same_guard_kept_on_agree_until_it_is_released(
    study_tables: GuardTables, config: ExperimentConfig
) -> None:
    last = config.steps[-1]
    by_part = {
        part: study_tables.part("readings", part).query("method == 'block'")
        for part in ("released", "lasting")
    }
    until = {
        part: rows[rows["step"] <= last].sort_values(["seed", "step"])["displacement"].to_numpy()
        for part, rows in by_part.items()
    }
    assert (until["released"] == until["lasting"]).all()
    assert len(until["lasting"]) >= 2 * len(config.seeds)


def test_directions_from_elsewhere_are_what_their_names_say(study: ExperimentConfig, studied: Layout) -> None:
    (first, second) = study.seeds
    other = ReversionDirection.load(studied.other_v_rev(first, "other-seed"))
    assert torch.equal(other.unit, ReversionDirection.load(studied.v_rev(second)).unit)


def test_halved_phases_give_directions_of_their_own(
    study: ExperimentConfig, studied: Layout, tmp_path: Path
) -> None:
    layout, units = Layout(tmp_path), {}
    for source in ("early-reference", "other-alignment"):
        directions.work(study, layout, OtherDirection(0, source), lambda: None)
        units[source] = ReversionDirection.load(layout.other_v_rev(0, source)).unit
    own = ReversionDirection.load(studied.v_rev(0)).unit
    assert not torch.equal(units["early-reference"], units["other-alignment"])
    assert not any(torch.equal(unit, own) for unit in units.values())


def test_clamping_to_the_baselines_place_leaves_the_baseline_itself_as_clamping_to_its_own_does(
    study_tables: GuardTables,
) -> None:
    rows = study_tables["routes"].query("model == 'baseline' and clamped == 'v_rev'")
    refusal = rows.set_index(["seed", "place"])["refusal"]
    for seed in rows["seed"].unique():
        assert refusal[seed, "baseline"] == refusal[seed, "own"]


def test_what_is_there_is_not_run_again_and_a_missing_record_is(
    study: ExperimentConfig, copy: Layout
) -> None:
    records = [copy.record(fine_tune.seed, fine_tune.label) for fine_tune in study.fine_tunes()]
    lost = records.pop(3)
    text = lost.read_text()
    lost.unlink()
    before = [path.stat().st_mtime_ns for path in records]
    run_experiment(study, copy.out, on=InThisProcess())
    assert lost.read_text() == text
    assert before == [path.stat().st_mtime_ns for path in records]


def test_another_study_in_the_same_folder_is_refused(
    study: ExperimentConfig, studied: Layout, config: ExperimentConfig
) -> None:
    assert isinstance(study.plan, Guards)
    for other in (study.with_plan(replace(study.plan, rates=(1.0,))), config):
        with pytest.raises(ResultsError, match="another configuration"):
            run_experiment(other, studied.out, on=InThisProcess())


def test_a_missing_record_and_one_of_another_fine_tune_are_named(
    study: ExperimentConfig, copy: Layout
) -> None:
    path, other = (copy.record(fine_tune.seed, fine_tune.label) for fine_tune in study.fine_tunes()[:2])
    with listed_file(path) as partial:
        partial.write_text(other.read_text())
    with pytest.raises(ResultsError, match="record of another fine-tune"):
        analyse_and_save(copy.out)
    path.unlink()
    with pytest.raises(ResultsError, match=r"run `revlens finetune` first"):
        analyse_and_save(copy.out)


def test_a_lost_clamp_mean_is_named_and_made_again(study: ExperimentConfig, copy: Layout) -> None:
    """No table holds it: only the routes that are still to be measured need it."""
    baseline = next(fine_tune for fine_tune in study.fine_tunes() if fine_tune.leaves_clamp_mean)
    path = copy.clamp_mean(baseline.seed, baseline.label)
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(ResultsError, match=rf"{path} is missing; run `revlens finetune` first"):
        analyse_and_save(copy.out)
    run_experiment(study, copy.out, stages=("finetune",), on=InThisProcess())
    assert path.read_bytes() == whole


def test_a_fine_tune_that_explodes_is_a_result_and_says_so(
    study: ExperimentConfig, studied: Layout, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "out")
    shutil.copytree(studied.runs, layout.runs)
    assert study.subject.benign is not None
    benign = replace(study.subject.benign, max_grad_norm=1e30)
    wild = replace(study, subject=replace(study.subject, benign=benign))
    early = next(fine_tune for fine_tune in study.fine_tunes() if fine_tune.part == "early")
    early = replace(early, rate=1e12, label="wild")
    finetune.work(wild, layout, early, lambda: None)
    record = json.loads(layout.record(early.seed, "wild").read_text())
    assert "update" in record["failed"]
    assert record["behaviour"] == []


@pytest.mark.usefixtures("no_static_images")
def test_the_command_line_goes_on_with_the_study_of_a_folder(
    copy: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "--out", str(copy.out), "--workers", "1"]) == 0
    page = copy.report.read_text()
    assert "Only 2 runs of each setting" in page
    plan = json.loads((copy.results / "provenance.json").read_text())["config"]["plan"]
    assert plan["long_steps"] == json.loads(copy.config.read_text())["plan"]["long_steps"]
    assert main(["reproduce", "--out", str(copy.out)]) == 2
    assert "holds an experiment of `revlens study`; choose another --out" in capsys.readouterr().err
    assert main(["capture", "--out", str(copy.out)]) == 2
    assert "`revlens study` has no stage 'capture'; it has history, directions, finetune" in (
        capsys.readouterr().err
    )
