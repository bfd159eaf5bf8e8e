"""A guard at every k-th update, and one that ends on the way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.training import L2SP, Every, FinetuneConfig, Guard, Until, finetune
from training.fine_tunes import DATA, trained, weights


def test_at_every_kth_update_a_guard_acts_and_else_not(history: TrainingHistory) -> None:
    class Counting(Guard):
        calls = 0

        def term(self, model: nn.Module) -> Tensor:
            self.calls += 1
            return 0.0 * next(model.parameters()).sum()

        def before_update(self, model: nn.Module) -> None:
            self.calls += 10

        def after_update(self, model: nn.Module) -> None:
            self.calls += 100

    for k, n in ((1, 4), (2, 2), (3, 2), (4, 1)):
        guard = Counting()
        assert torch.equal(weights(trained(history, Every(k, guard))), weights(trained(history, None)))
        assert guard.calls == 111 * n
    with pytest.raises(ConfigError, match="k=0 must be at least 1"):
        Every(0, Guard())


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


def course(history: TrainingHistory, guard: Guard | None, steps: int) -> list[torch.Tensor]:
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
    course(history, Until(last, diary), steps)
    assert diary.entries == ["begin", *["task", "term", "before", "after"] * min(last, steps), "end"]


def test_until_then_the_fine_tune_is_that_of_the_guard_and_after_that_a_plain_one(
    history: TrainingHistory,
) -> None:
    start = history.aligned.load()
    guarded, until, plain = (
        course(history, guard, 4) for guard in (L2SP.at(start, 10.0), Until(2, L2SP.at(start, 10.0)), None)
    )
    assert all(torch.equal(a, b) for a, b in zip(guarded[:2], until[:2], strict=True))
    assert not torch.equal(guarded[2], until[2])
    assert not torch.equal(plain[2], until[2])


def test_it_can_be_used_again(history: TrainingHistory) -> None:
    guard = Until(1, Diary())
    first = course(history, guard, 2)
    assert torch.equal(course(history, guard, 2)[-1], first[-1])
    assert guard.guard.entries.count("task") == 2  # type: ignore[attr-defined]


def test_it_must_act_once_at_least() -> None:
    with pytest.raises(ConfigError, match="last=0"):
        Until(0, Guard())
