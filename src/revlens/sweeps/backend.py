"""What runs tasks: the two things a backend does, whatever it consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from revlens.sweeps.task import Task

#: How progress arrives: a label, and how often it was ticked since the last call.
OnTick = Callable[[str, int], None]


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        name: the task's.
        error: what it raised.
        death: how its process died under it, in words. Neither of the two: it is done.
    """

    name: str
    error: Exception | None = None
    death: str | None = None


@runtime_checkable
class Workers(Protocol):
    """Workers that are up."""

    def submit(self, task: Task) -> None:
        """Queue a task; those queued first start first."""
        ...

    def finished(self) -> Sequence[Outcome]:
        """What has ended since the last call; waits a moment if nothing has. Progress is passed on meanwhile."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Where tasks run."""

    def open(self, n_tasks: int, on_tick: OnTick) -> AbstractContextManager[Workers]:
        """Workers for a sweep. When the block ends by an error, what is running is ended first: it leaves no scratch files."""
        ...
