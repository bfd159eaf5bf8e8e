"""Any guard at some of the updates only: every k-th one, or the first ones."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import ConfigError
from revlens.training.guard import Guard


@dataclass
class Every(Guard):
    """A guard at updates 1, 1 + k, 1 + 2k, ..., which divides its cost by k.

    This holds for its term and for its changes of the update; its context around the task is open at every
    update. The term keeps its weight, so on average over updates the guard is k times weaker.

    Attributes:
        k: updates from one application to the next.
        guard: what is applied.

    Raises:
        ConfigError: if k is not at least 1.
    """

    k: int
    guard: Guard
    _update: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k={self.k} must be at least 1.")

    def __str__(self) -> str:
        return f"Every({self.guard})"

    def acts_at(self, moment: str) -> bool:
        return self.guard.acts_at(moment)

    @property
    def _is_on(self) -> bool:
        return self._update % self.k == 0

    def begin(self, model: nn.Module) -> None:
        self._update = -1
        self.guard.begin(model)

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        return self.guard.around_task(model)

    def term(self, model: nn.Module) -> Float[Tensor, ""] | None:
        self._update += 1
        return self.guard.term(model) if self._is_on else None

    def before_update(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.before_update(model)

    def after_update(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.after_update(model)

    def end(self, model: nn.Module) -> None:
        self.guard.end(model)


@dataclass
class Until(Guard):
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
    guard: Guard
    _update: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ConfigError(f"last={self.last} must be at least 1.")

    def __str__(self) -> str:
        return f"Until({self.guard})"

    def acts_at(self, moment: str) -> bool:
        ends = moment == "after_update" and self.guard.acts_at("end")
        return ends or self.guard.acts_at(moment)

    @property
    def _is_on(self) -> bool:
        return self._update <= self.last

    def begin(self, model: nn.Module) -> None:
        self._update = 0
        self.guard.begin(model)

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        self._update += 1
        return self.guard.around_task(model) if self._is_on else nullcontext()

    def term(self, model: nn.Module) -> Float[Tensor, ""] | None:
        return self.guard.term(model) if self._is_on else None

    def before_update(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.before_update(model)

    def after_update(self, model: nn.Module) -> None:
        if self._is_on:
            self.guard.after_update(model)
            if self._update == self.last:
                self.guard.end(model)

    def end(self, model: nn.Module) -> None:
        if self._update < self.last:
            self.guard.end(model)
