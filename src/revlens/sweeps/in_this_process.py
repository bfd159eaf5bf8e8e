"""Running tasks in this process, one after another: for a debugger, and for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from revlens.sweeps.backend import OnTick, Outcome
from revlens.sweeps.task import Task


@dataclass(frozen=True)
class InThisProcess:
    """Runs tasks in the caller's process and settings; a dying task takes the caller with it."""

    @contextmanager
    def open(self, n_tasks: int, on_tick: OnTick) -> Iterator[_Queue]:
        yield _Queue(on_tick)


@dataclass
class _Queue:
    on_tick: OnTick
    tasks: deque[Task] = field(default_factory=deque)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def finished(self) -> list[Outcome]:
        task = self.tasks.popleft()
        try:
            task.function(*task.args, lambda label: self.on_tick(label, 1))
        except Exception as error:
            return [Outcome(task.name, error)]
        return [Outcome(task.name)]
