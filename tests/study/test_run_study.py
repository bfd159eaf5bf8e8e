"""A whole study of the tiny experiment: what it leaves, that it resumes, and that its numbers are those of the runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.io as pio
import pytest
import torch
from kaleido.errors import ChromeNotFoundError

from revlens.cli import main
from revlens.direction import ReversionDirection
from revlens.errors import ResultsError
from revlens.experiment import ExperimentConfig, Layout
from revlens.figures import REPORTS, drawable
from revlens.storage.checksums import SUMS, damages, listed_file
from revlens.study import (
    STUDY_TABLES,
    StudyConfig,
    StudyLayout,
    StudyTables,
    plan,
    run_study,
    tabulate_and_save,
)
from revlens.study.carry_out import carry_out
from revlens.sweeps import InThisProcess


@pytest.fixture(scope="module")
def study(config: ExperimentConfig) -> StudyConfig:
    return StudyConfig.quick(config)


@pytest.fixture(scope="module")
def studied(study: StudyConfig, layout: Layout) -> StudyLayout:
    run_study(study, layout.out, on=InThisProcess())
    return StudyLayout(layout.out)


@pytest.fixture(scope="module")
def tables(studied: StudyLayout) -> StudyTables:
    return tabulate_and_save(studied.out)[1]


def test_every_run_has_a_record_and_every_table_rows_of_every_seed(
    study: StudyConfig, studied: StudyLayout, tables: StudyTables
) -> None:
    assert all(studied.record(run).is_file() for run in plan(study))
    for name in set(STUDY_TABLES) - {"failures", "foreseen"}:
        assert set(tables[name]["seed"]) == set(study.experiment.seeds), name
    assert len(tables["failures"]) == 0
    judged = sum(len(run.marks) for run in plan(study))
    assert len(tables["behaviour"]) == judged


def test_tasks_that_run_at_the_same_time_write_in_no_folder_twice(
    study: StudyConfig, studied: StudyLayout
) -> None:
    """Each would rewrite the list of the other's files."""
    folders = {
        path.parent
        for top in ("runs", "anchors", "directions")
        for path in (studied.root / top).rglob("*")
        if path.is_file()
    }
    n_seeds = len(study.experiment.seeds)
    assert len(folders) == len(plan(study)) + n_seeds + n_seeds * len(study.directions)
    for folder in folders:
        assert len(list(folder.iterdir())) == 2
        assert (folder / SUMS).read_text().count("\n") == 1
        assert damages(folder) == []


def test_saved_tables_are_the_tables(studied: StudyLayout, tables: StudyTables) -> None:
    loaded = StudyTables.load(studied.results)
    for name in STUDY_TABLES:
        assert loaded[name].fillna(-1).to_dict("list") == tables[name].fillna(-1).to_dict("list")


def test_the_grids_arms_are_those_of_the_experiment(
    layout: Layout, tables: StudyTables, config: ExperimentConfig
) -> None:
    """Same start, data, order, optimizer and guard: the numbers of `revlens finetune` and `revlens behaviour`, to the last bit."""
    grid = tables.part("behaviour", "grid").set_index(["method", "seed"])
    for arm in ("baseline", "block"):
        for seed in config.seeds:
            last = json.loads(layout.behaviour(seed, arm).read_text())[-1]
            assert grid.loc[(arm, seed), "task_loss"] == last["task_loss"]
            assert grid.loc[(arm, seed), "harmfulness"] == last["harmfulness"]


def test_a_released_guard_and_the_same_guard_kept_on_agree_until_it_is_released(
    tables: StudyTables, config: ExperimentConfig
) -> None:
    last = config.steps[-1]
    by_part = {
        part: tables.part("readings", part).query("method == 'block'") for part in ("released", "lasting")
    }
    until = {
        part: rows[rows["step"] <= last].sort_values(["seed", "step"])["displacement"].to_numpy()
        for part, rows in by_part.items()
    }
    assert (until["released"] == until["lasting"]).all()
    assert len(until["lasting"]) >= 2 * len(config.seeds)


def test_directions_from_elsewhere_are_what_their_names_say(study: StudyConfig, studied: StudyLayout) -> None:
    (first, second) = study.experiment.seeds
    other = ReversionDirection.load(studied.direction(first, "other-seed"))
    assert torch.equal(other.unit, ReversionDirection.load(Layout(studied.out).v_rev(second)).unit)


def test_halved_phases_give_directions_of_their_own(
    study: StudyConfig, studied: StudyLayout, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "runs" / "seed-0").mkdir(parents=True)
    shutil.copy(Layout(studied.out).v_rev(0), Layout(out).v_rev(0))
    from revlens.study import locate_elsewhere

    units = {}
    for source in ("early-reference", "other-alignment"):
        locate_elsewhere(study, StudyLayout(out), 0, source, lambda label: None)
        units[source] = ReversionDirection.load(StudyLayout(out).direction(0, source)).unit
    own = ReversionDirection.load(Layout(out).v_rev(0)).unit
    assert not torch.equal(units["early-reference"], units["other-alignment"])
    assert not any(torch.equal(unit, own) for unit in units.values())


def test_clamping_to_the_baselines_place_leaves_the_baseline_itself_as_clamping_to_its_own_does(
    tables: StudyTables,
) -> None:
    rows = (
        tables["carried"]
        .query("model == 'baseline' and direction == 'v_rev'")
        .set_index(["seed", "place"])["harmfulness"]
    )
    for seed in rows.index.get_level_values("seed").unique():
        assert rows[seed, "baseline"] == rows[seed, "own"]


def test_what_is_there_is_not_run_again_and_a_missing_record_is(
    study: StudyConfig, studied: StudyLayout
) -> None:
    runs = plan(study)
    lost = studied.record(runs[3])
    text = lost.read_text()
    lost.unlink()
    before = {run.name: studied.record(run).stat().st_mtime_ns for run in runs if run != runs[3]}
    run_study(study, studied.out, on=InThisProcess())
    assert lost.read_text() == text
    assert before == {run.name: studied.record(run).stat().st_mtime_ns for run in runs if run != runs[3]}


def test_another_study_in_the_same_folder_is_refused(study: StudyConfig, studied: StudyLayout) -> None:
    with pytest.raises(ResultsError, match="another configuration"):
        run_study(replace(study, rates=(1.0,)), studied.out, on=InThisProcess())


def test_a_missing_record_and_one_of_another_run_are_named(studied: StudyLayout, study: StudyConfig) -> None:
    path, other = (studied.record(run) for run in plan(study)[:2])
    text = path.read_text()
    try:
        with listed_file(path) as partial:
            partial.write_text(other.read_text())
        with pytest.raises(ResultsError, match="record of another run"):
            tabulate_and_save(studied.out)
        path.unlink()
        with pytest.raises(ResultsError, match=r"run `revlens study` first"):
            tabulate_and_save(studied.out)
    finally:
        with listed_file(path) as partial:
            partial.write_text(text)


def test_a_run_that_explodes_is_a_result_and_says_so(
    study: StudyConfig, studied: StudyLayout, tmp_path: Path
) -> None:
    layout = StudyLayout(tmp_path)
    shutil.copytree(studied.out / "runs", tmp_path / "runs")
    benign = replace(study.subject.benign, max_grad_norm=1e30)
    wild = replace(study, experiment=replace(study.experiment, subject=replace(study.subject, benign=benign)))
    run = replace(next(run for run in plan(study) if run.part == "early"), rate=1e12)
    carry_out(wild, layout, run, lambda label: None)
    record = json.loads(layout.record(run).read_text())
    assert "update" in record["failed"]
    assert record["behaviour"] == []


def test_all_figures_can_be_drawn(tables: StudyTables) -> None:
    """Of so few updates nobody is harmed, or everybody: an area under a curve is made up for the test."""
    report = REPORTS["guards"]
    assert "early_warning" not in {plot.name for plot in drawable(report, tables)}
    made_up = tables["foreseen"].assign(auroc=0.7, auroc_low=0.6, auroc_high=0.8)
    tables = StudyTables({**tables.tables, "foreseen": made_up})
    plots = drawable(report, tables)
    assert plots == report.plots
    for plot in plots:
        figure = plot.draw(tables)
        values = np.concatenate(
            [np.asarray(trace.y, dtype=object).ravel() for trace in figure.data if trace.y is not None]
        )
        assert len(values), plot.name


def test_the_command_line_goes_on_with_the_study_of_a_folder(
    studied: StudyLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_chromium(*args: object, **kwargs: object) -> None:
        raise ChromeNotFoundError("no Chromium here")

    monkeypatch.setattr(pio, "write_images", no_chromium)
    assert main(["study", "--out", str(studied.out), "--workers", "1"]) == 0
    page = studied.report.read_text()
    assert "Only 2 runs of each setting" in page
    names = [plot.name for plot in REPORTS["guards"].plots]
    assert all(f'id="{name}"' in page for name in names if name != "early_warning")
    assert (
        json.loads((studied.results / "provenance.json").read_text())["study"]["long_steps"]
        == json.loads(studied.config.read_text())["long_steps"]
    )
