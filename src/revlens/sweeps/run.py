"""Running tasks to their end, wherever they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from revlens.errors import ConfigError, WorkerError
from revlens.sweeps.backend import Backend, OnTick
from revlens.sweeps.processes import Processes
from revlens.sweeps.task import Task, in_order


def run_tasks(
    tasks: Sequence[Task],
    *,
    on: Backend | None = None,
    on_tick: OnTick = lambda label, n: None,
    retries: int = 1,
) -> None:
    """Run tasks, each as soon as those before it are done.

    A task whose process dies under it (killed, out of memory, its machine gone) is run again; one that raises
    is not. The first error ends the sweep: what is running is ended, and the error surfaces with a note that
    names the task. Since tasks look for their own outputs, the same call goes on where the last one stopped.

    Args:
        tasks: in the order in which they should start, as far as they can.
        on: `Processes` (the default: as many as there are cores), `RayCluster` or `InThisProcess`.
        on_tick: called in this process with a label and how often tasks have ticked it. A task that is run
            again ticks again.
        retries: how often a task is run again after its process has died.

    Raises:
        ConfigError: if names repeat, a task waits for an unknown one or for itself, or ``retries`` is
            negative; also see the backend.
        WorkerError: if a task's process dies once more than ``retries``.
        Exception: whatever a task raises.
    """
    if retries < 0:
        raise ConfigError(f"retries={retries} must be at least 0.")
    order, by_name = in_order(tasks), {task.name: task for task in tasks}
    deaths: Counter[str] = Counter()
    if not tasks:
        return
    with (on or Processes()).open(len(tasks), on_tick) as workers:
        while order.is_active():
            for name in order.get_ready():
                workers.submit(by_name[name])
            for outcome in workers.finished():
                if outcome.error is not None:
                    outcome.error.add_note(f"In task {outcome.name!r}.")
                    raise outcome.error
                if outcome.death is None:
                    order.done(outcome.name)
                    continue
                deaths[outcome.name] += 1
                if deaths[outcome.name] > retries:
                    raise WorkerError(
                        f"The process of task {outcome.name!r} died {deaths[outcome.name]} times, at last: {outcome.death}. If memory "
                        "ran out, give it fewer workers or a smaller batch."
                    )
                workers.submit(by_name[outcome.name])
