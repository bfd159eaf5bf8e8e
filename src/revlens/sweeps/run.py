"""Running the tasks of a sweep on any backend."""

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

    A task whose process dies (killed, out of memory, its machine gone) runs again; a task that raises does
    not. The first error ends the sweep with all running tasks, and has a note that names its task. Tasks
    look for their own outputs, so the same call resumes an interrupted sweep.

    Args:
        tasks: in the preferred order of their starts.
        on: `Processes` (the default: one a core), `RayCluster` or `InThisProcess`.
        on_tick: called in this process with a label and the number of its new ticks; a task that runs again
            ticks again.
        retries: repetitions of a task whose process dies.

    Raises:
        ConfigError: if names repeat, a task waits for an unknown one or for itself, or ``retries`` is
            negative; also see the backend.
        WorkerError: if a task's process dies more than ``retries`` times.
        Exception: the exception of a task.
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
                        f"The process of task {outcome.name!r} died {deaths[outcome.name]} times, "
                        f"at last: {outcome.death}. "
                        "If memory ran out, give it fewer workers or a smaller batch."
                    )
                workers.submit(by_name[outcome.name])
