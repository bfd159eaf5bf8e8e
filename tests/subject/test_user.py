from __future__ import annotations

from dataclasses import replace

import pytest

from revlens.data import ChatSource
from revlens.errors import ConfigError
from revlens.subject import ProbeFiles, Subject, UserHistory, capture_steps
from revlens.training import FinetuneConfig

TRAINED = UserHistory(
    root=".",
    history={"reference": "base", "aligned": "chat"},
    probes=ProbeFiles("probes.json"),
    engaging=("Sure",),
    refusal=("Sorry",),
    task=ChatSource("task.jsonl"),
    benign=FinetuneConfig(steps=5, learning_rate=1e-3),
)
GIVEN = replace(TRAINED, benign=None, task=None, runs=({1: "step-1"},))


def test_a_history_has_the_one_task_of_its_manifest() -> None:
    assert isinstance(TRAINED, Subject)
    assert TRAINED.tasks == ("task",)
    slow = TRAINED.with_task("task", 0.5)
    assert slow == replace(TRAINED, benign=FinetuneConfig(steps=5, learning_rate=5e-4))
    assert TRAINED.with_task("task") == TRAINED
    with pytest.raises(ConfigError, match="Unknown benign task 'objects'; this history has task"):
        TRAINED.with_task("objects")


def test_given_steps_leave_no_task() -> None:
    assert GIVEN.tasks == ()
    with pytest.raises(ConfigError, match="this history has none"):
        GIVEN.with_task("task")


def test_given_checkpoints_have_no_other_v_rev() -> None:
    assert TRAINED.other_histories == ()
    assert TRAINED.caveat is None
    with pytest.raises(ConfigError, match="no other v_rev 'early-reference'"):
        TRAINED.halved("early-reference")


@pytest.mark.parametrize(
    ("last", "steps"), [(1, (1,)), (4, (1, 2, 4)), (5, (1, 2, 5)), (200, (*capture_steps(100), 200))]
)
def test_steps_are_dense_at_first_and_end_with_the_last(last: int, steps: tuple[int, ...]) -> None:
    assert capture_steps(last) == steps
