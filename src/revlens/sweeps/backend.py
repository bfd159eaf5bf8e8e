"""The interface of a backend: what runs tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from revlens.sweeps.task import Task

#: Receives progress: a label, and the number of its ticks since the last call.
OnTick = Callable[[str, int], None]


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        name: of the task.
        error: the exception that the task raised.
        death: how its process died, in words. If both are None, the task is done.
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
        """Tasks that have ended since the last call; waits briefly without any, and passes on progress."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Where tasks run."""

    def open(self, n_tasks: int, on_tick: OnTick) -> AbstractContextManager[Workers]:
        """Workers for a sweep. An error in the block ends running tasks first: no scratch file stays."""
        ...
