"""Any objective at every k-th update only, which divides its cost by k."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import ConfigError
from revlens.training.guard import Guard


@dataclass
class Every(Guard):
    """A guard's term and its changes of updates 1, 1 + k, 1 + 2k, ...; the context around the task is there at all of them.

    The term keeps its weight: on average over updates the guard is k times weaker.

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
