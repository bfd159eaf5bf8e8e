"""A piece of work, its predecessors, and its share of a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from revlens.errors import ConfigError

#: Reports a task's progress under a label; the caller counts the calls.
Tick = Callable[[str], None]


@dataclass(frozen=True)
class Resources:
    """Share of a machine that a task takes. A Ray cluster reserves it; local processes ignore it.

    Attributes:
        n_cpus: processor cores.
        n_gpus: GPUs, or a share of one below 1; a task with none sees no GPU.
        memory: bytes of main memory.

    Raises:
        ConfigError: if a value is out of range.
    """

    n_cpus: float = 1.0
    n_gpus: float = 0.0
    memory: int = 0

    def __post_init__(self) -> None:
        if not self.n_cpus > 0:
            raise ConfigError(f"n_cpus={self.n_cpus} must be above 0.")
        if not self.n_gpus >= 0 or (self.n_gpus > 1 and self.n_gpus % 1):
            raise ConfigError(f"n_gpus={self.n_gpus} must be a whole number, or a share between 0 and 1.")
        if self.memory < 0:
            raise ConfigError(f"memory={self.memory} bytes must be at least 0.")


@dataclass(frozen=True)
class Task:
    """A call that can run in another process or on another machine, and can be repeated.

    Attributes:
        name: unique in its sweep; errors name it.
        function: called as ``function(*args, tick)``. Picklable, and idempotent: it looks for its own output,
            and leaves whole files only. What it returns is dropped.
        args: picklable values.
        after: names of the tasks that must end first.
        resources: its share of a machine.
    """

    name: str
    function: Callable[..., None]
    args: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()
    resources: Resources = Resources()


def in_order(tasks: Sequence[Task]) -> TopologicalSorter[str]:
    """The names of the tasks, as a graph that hands out those whose predecessors are done.

    Raises:
        ConfigError: if two tasks have one name, or a task waits for an unknown one or for itself.
    """
    graph: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        if task.name in graph:
            raise ConfigError(f"Two tasks are called {task.name!r}; give each a name of its own.")
        graph[task.name] = task.after
    for name, after in graph.items():
        unknown = [other for other in after if other not in graph]
        if unknown:
            raise ConfigError(f"Task {name!r} waits for {unknown[0]!r}, which is not among the tasks.")
    order = TopologicalSorter(graph)
    try:
        order.prepare()
    except CycleError as error:
        raise ConfigError(
            f"Tasks wait for one another in a circle: {' after '.join(reversed(error.args[1]))}."
        ) from None
    return order
