"""Any guard at some of the updates only: every k-th one, or the first ones."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import ConfigError
from revlens.training.guard import Guard
from revlens.training.state import State, matched, named_within, part_of


@dataclass
class _AtSomeUpdates(Guard):
    """A guard that passes the moments of some updates on to another.

    It counts the updates that are done, so that all moments of one have the same number, in whichever order
    they come. A wrapper within a wrapper counts those that are passed on to it.
    """

    guard: Guard
    _done: int = field(default=0, init=False)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.guard})"

    def acts_at(self, moment: str) -> bool:
        return self.guard.acts_at(moment)

    def is_for_every_update(self) -> bool:
        return self.guard.is_for_every_update()

    @property
    def _is_on(self) -> bool:
        """Whether the guard acts at the present update."""
        raise NotImplementedError

    def begin(self, model: nn.Module) -> None:
        self._done = 0
        self.guard.begin(model)

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        return self.guard.around_task(model) if self._is_on else nullcontext()

    def term(self, model: nn.Module) -> Float[Tensor, ""] | None:
        return self.guard.term(model) if self._is_on else None

    def before_update(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.before_update(model)

    def after_update(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.after_update(model)
        self._done += 1

    def end(self, model: nn.Module) -> None:
        self.guard.end(model)

    def release(self, model: nn.Module) -> None:
        self.guard.release(model)

    def state_dict(self) -> dict[str, Tensor]:
        return {"done": torch.tensor(self._done), **named_within("guard", self.guard.state_dict())}

    def load_state_dict(self, state: State) -> None:
        saved = matched(self, state)
        self._done = int(saved["done"])
        self.guard.load_state_dict(part_of(saved, "guard"))


@dataclass(init=False)
class Every(_AtSomeUpdates):
    """A guard at updates 1, 1 + k, 1 + 2k, ..., which divides its cost by k.

    This holds for its term and for its changes of the update; its context around the task is open at every
    update. The term keeps its weight, so on average over updates the guard is k times weaker.

    Attributes:
        k: updates from one application to the next.
        guard: what is applied.

    Raises:
        ConfigError: if k is not at least 1, or the guard makes sense only at every update.
    """

    k: int

    def __init__(self, k: int, guard: Guard) -> None:
        if k < 1:
            raise ConfigError(f"k={k} must be at least 1.")
        if guard.is_for_every_update():
            raise ConfigError(
                f"{guard} has states that last some updates, and cannot skip any; use it without Every."
            )
        super().__init__(guard)
        self.k = k

    @property
    def _is_on(self) -> bool:
        return self._done % self.k == 0

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        return self.guard.around_task(model)


@dataclass(init=False)
class Until(_AtSomeUpdates):
    """A guard for the first updates only: the updates after them show whether its effect lasts.

    The guard ends after its last update, as it would at the end of a fine-tune; the optimizer goes on as it
    is. Parameters that the guard froze at the start do not join the optimizer when they thaw.

    Attributes:
        last: the last update at which the guard acts, from 1.
        guard: what is applied.

    Raises:
        ConfigError: if ``last`` is not at least 1.
    """

    last: int

    def __init__(self, last: int, guard: Guard) -> None:
        if last < 1:
            raise ConfigError(f"last={last} must be at least 1.")
        super().__init__(guard)
        self.last = last

    def acts_at(self, moment: str) -> bool:
        ends = moment == "after_update" and self.guard.acts_at("end")
        return ends or self.guard.acts_at(moment)

    @property
    def _is_on(self) -> bool:
        return self._done < self.last

    def after_update(self, model: nn.Module) -> None:
        super().after_update(model)
        if self._done == self.last:
            self.guard.end(model)
            self.guard.release(model)

    def end(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.end(model)
