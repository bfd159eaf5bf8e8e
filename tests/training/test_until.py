"""A guard that is switched off on the way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from datasets import Dataset
from torch import nn

from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.training import L2SP, FinetuneConfig, Guard, Until, finetune

DATA = Dataset.from_dict(
    {
        "prompt": ["A?", "B?", "Now what?"] * 3,
        "answer": ["Sure, at once.", "Sure, in a minute.", "Of course."] * 3,
    }
)


class Diary(Guard):
    """Writes down when it is called."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def begin(self, model: nn.Module) -> None:
        self.entries.append("begin")

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        self.entries.append("task")
        return nullcontext()

    def term(self, model: nn.Module) -> None:
        self.entries.append("term")

    def before_update(self, model: nn.Module) -> None:
        self.entries.append("before")

    def after_update(self, model: nn.Module) -> None:
        self.entries.append("after")

    def end(self, model: nn.Module) -> None:
        self.entries.append("end")


def trained(history: TrainingHistory, guard: Guard | None, steps: int) -> list[torch.Tensor]:
    """Every parameter after each update."""
    model, states = history.aligned.load(), []

    def keep(step: int, loss: float) -> None:
        states.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))

    finetune(
        model,
        DATA,
        FinetuneConfig(steps=steps, learning_rate=3e-3, batch_size=4),
        seed=0,
        guard=guard,
        on_step=keep,
    )
    return states


@pytest.mark.parametrize(("last", "steps"), [(2, 4), (3, 3), (5, 3)])
def test_it_is_called_at_its_updates_and_ended_once(history: TrainingHistory, last: int, steps: int) -> None:
    diary = Diary()
    trained(history, Until(last, diary), steps)
    assert diary.entries == ["begin", *["task", "term", "before", "after"] * min(last, steps), "end"]


def test_until_then_the_fine_tune_is_that_of_the_guard_and_after_that_a_plain_one(
    history: TrainingHistory,
) -> None:
    start = history.aligned.load()
    guarded, until, plain = (
        trained(history, guard, 4) for guard in (L2SP.at(start, 10.0), Until(2, L2SP.at(start, 10.0)), None)
    )
    assert all(torch.equal(a, b) for a, b in zip(guarded[:2], until[:2], strict=True))
    assert not torch.equal(guarded[2], until[2])
    assert not torch.equal(plain[2], until[2])


def test_it_can_be_used_again(history: TrainingHistory) -> None:
    guard = Until(1, Diary())
    first = trained(history, guard, 2)
    assert torch.equal(trained(history, guard, 2)[-1], first[-1])
    assert guard.guard.entries.count("task") == 2  # type: ignore[attr-defined]


def test_it_must_act_once_at_least() -> None:
    with pytest.raises(ConfigError, match="last=0"):
        Until(0, Guard())
