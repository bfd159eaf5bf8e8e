"""What a guard says of itself: when it acts, and what it is called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revlens.history import TrainingHistory
from revlens.training import Every, Guard, Until
from training.fine_tunes import trained, weights

MOMENTS = ("begin", "around_task", "term", "before_update", "after_update", "end")


class Ending(Guard):
    def end(self, model: nn.Module) -> None:
        pass


class Updating(Guard):
    def after_update(self, model: nn.Module) -> None:
        pass


@pytest.mark.parametrize(
    ("guard", "moments"),
    [
        (Guard(), []),
        (Ending(), ["end"]),
        (Every(2, Ending()), ["end"]),
        (Every(2, Updating()), ["after_update"]),
        (Until(3, Ending()), ["after_update", "end"]),  # it may end there
        (Until(3, Every(2, Updating())), ["after_update"]),
        (Until(3, Every(2, Guard())), []),
    ],
    ids=str,
)
def test_it_acts_where_it_has_a_method_of_its_own_or_the_guard_within_it_has(
    guard: Guard, moments: list[str]
) -> None:
    assert [moment for moment in MOMENTS if guard.acts_at(moment)] == moments


def test_messages_name_the_guard_within_another() -> None:
    assert str(Until(3, Every(2, Ending()))) == "Until(Every(Ending))"


def test_a_guard_without_any_moment_of_its_own_is_the_baseline(history: TrainingHistory) -> None:
    assert torch.equal(weights(trained(history, Guard())), weights(trained(history, None)))
