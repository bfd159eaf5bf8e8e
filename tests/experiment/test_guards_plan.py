"""Which fine-tunes a study has, and that they are comparable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from revlens.errors import ConfigError
from revlens.experiment import ExperimentConfig, Guards
from revlens.experiment.guarded import subject_of
from revlens.experiment.guards.plan import GRID, PARTS, RELEASED
from revlens.organism import OrganismConfig
from revlens.training import METHODS


@pytest.fixture
def study(config: ExperimentConfig) -> ExperimentConfig:
    """The whole study of the tiny experiment's subject."""
    return config.with_plan(Guards.of(config))


def test_there_is_every_part_and_every_name_is_unique(study: ExperimentConfig) -> None:
    fine_tunes = study.fine_tunes()
    assert {fine_tune.part for fine_tune in fine_tunes} == set(PARTS)
    assert len({fine_tune.name for fine_tune in fine_tunes}) == len(fine_tunes)
    n_settings = sum(len(strengths) for strengths in GRID.values())
    assert sum(fine_tune.part == "grid" for fine_tune in fine_tunes) == len(study.seeds) * n_settings
    assert {fine_tune.method for fine_tune in fine_tunes} == set(METHODS)


def test_fine_tunes_of_a_part_and_seed_draw_the_same_data(study: ExperimentConfig) -> None:
    fine_tunes = study.fine_tunes()
    for part in PARTS:
        assert len({fine_tune.horizon for fine_tune in fine_tunes if fine_tune.part == part}) == 1
    horizons = {fine_tune.part: fine_tune.horizon for fine_tune in fine_tunes}
    assert horizons["lasting"] == horizons["released"]  # one long baseline serves both
    assert horizons["grid"] == horizons["transfer"] == horizons["early"]


def test_a_guard_is_switched_off_where_the_long_baseline_is_judged_too(study: ExperimentConfig) -> None:
    assert isinstance(study.plan, Guards)
    fine_tunes = study.fine_tunes()
    (long,) = {fine_tune.marks for fine_tune in fine_tunes if fine_tune.part == "lasting"}
    released = [fine_tune for fine_tune in fine_tunes if fine_tune.part == "released"]
    for fine_tune in released:
        assert fine_tune.until in fine_tune.marks
        assert set(fine_tune.marks) < set(long)
        assert fine_tune.marks[-1] == fine_tune.steps == study.plan.released_steps
    assert {fine_tune.method for fine_tune in released} == set(RELEASED)


def test_a_fine_tunes_task_and_rate_change_the_task_and_the_rate_and_nothing_else(
    study: ExperimentConfig,
) -> None:
    early = (fine_tune for fine_tune in study.fine_tunes() if fine_tune.part == "early")
    fine_tune = next(f for f in early if f.task == "objects" and f.rate == 2.0)
    subject, own = study.subject, subject_of(study, fine_tune)
    assert isinstance(subject, OrganismConfig)
    assert isinstance(own, OrganismConfig)
    assert (own.task, own.benign.learning_rate) == ("objects", 2 * subject.benign.learning_rate)
    assert replace(own, task=subject.task, benign=subject.benign) == subject


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"block": (5.0,)}}, "baseline must be in the grid"),
        ({"lasting": {"block": 5.0}}, "baseline must be among the lasting"),
        ({"released": {"mystery": 1.0}}, "mystery"),
        ({"tasks": ("poems",)}, "poems"),
        ({"directions": ("nowhere",)}, "nowhere"),
        ({"released_steps": 3}, "follow one another"),
        ({"long_steps": 4}, "follow one another"),
        ({"rates": (1.0, -1.0)}, r"rates=\(1.0, -1.0\) must be positive"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(
    study: ExperimentConfig, change: dict[str, object], message: str
) -> None:
    assert isinstance(study.plan, Guards)
    with pytest.raises(ConfigError, match=message):
        study.with_plan(replace(study.plan, **change))  # type: ignore[arg-type]


def test_parts_without_entries_are_left_out(config: ExperimentConfig) -> None:
    plan = Guards(grid={"baseline": (None,), "block": (5.0,)}, lasting={}, released={}, rates=())
    fine_tunes = config.with_plan(plan).fine_tunes()
    assert {fine_tune.part for fine_tune in fine_tunes} == {"grid"}
    assert len(fine_tunes) == 2 * len(config.seeds)
