"""Which fine-tunes a study has, and that they are comparable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from revlens.errors import ConfigError
from revlens.experiment import ExperimentConfig
from revlens.study import PARTS, StudyConfig, plan
from revlens.study.config import GRID, RELEASED
from revlens.subject import UserHistory
from revlens.training import METHODS


@pytest.fixture
def study(config: ExperimentConfig) -> StudyConfig:
    return StudyConfig.of(config)


def test_every_method_of_the_library_is_in_the_grid() -> None:
    assert list(GRID) == list(METHODS)


def test_there_is_every_part_and_every_name_is_unique(study: StudyConfig) -> None:
    runs = plan(study)
    assert {run.part for run in runs} == set(PARTS)
    assert len({run.name for run in runs}) == len(runs)
    assert len([run for run in runs if run.part == "grid"]) == len(study.experiment.seeds) * sum(
        len(s) for s in study.grid.values()
    )


def test_runs_of_a_part_and_seed_draw_the_same_data(study: StudyConfig) -> None:
    for part in PARTS:
        assert len({run.horizon for run in plan(study) if run.part == part}) == 1
    horizons = {run.part: run.horizon for run in plan(study)}
    assert horizons["lasting"] == horizons["released"]  # one long baseline serves both
    assert horizons["grid"] == horizons["transfer"] == horizons["early"]


def test_a_guard_is_switched_off_where_the_long_baseline_is_judged_too(study: StudyConfig) -> None:
    runs = plan(study)
    (long,) = {run.marks for run in runs if run.part == "lasting"}
    for run in runs:
        if run.part == "released":
            assert run.guarded in run.marks
            assert set(run.marks) < set(long)
            assert run.marks[-1] == run.steps == study.released_steps
    assert {run.method for run in runs if run.part == "released"} == set(RELEASED)


def test_a_runs_task_and_rate_change_the_task_and_the_rate_and_nothing_else(study: StudyConfig) -> None:
    run = next(
        run for run in plan(study) if run.part == "early" and run.task == "objects" and run.rate == 2.0
    )
    subject, own = study.subject, run.subject(study.subject)
    assert (own.task, own.benign.learning_rate) == ("objects", 2 * subject.benign.learning_rate)
    assert replace(own, task=subject.task, benign=subject.benign) == subject


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"block": (5.0,)}}, "baseline"),
        ({"released": {"mystery": 1.0}}, "mystery"),
        ({"tasks": ("poems",)}, "poems"),
        ({"directions": ("nowhere",)}, "nowhere"),
        ({"released_steps": 3}, "follow one another"),
        ({"long_steps": 4}, "follow one another"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(
    study: StudyConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(study, **change)  # type: ignore[arg-type]


def test_ones_own_checkpoints_are_refused() -> None:
    own = UserHistory.__new__(UserHistory)  # what it holds does not matter
    experiment = ExperimentConfig.__new__(ExperimentConfig)
    object.__setattr__(experiment, "subject", own)
    object.__setattr__(experiment, "steps", (1,))
    with pytest.raises(ConfigError, match="needs an organism"):
        StudyConfig.of(experiment)
