"""The laws of a sweep, in this process and in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import sweep_tasks
from revlens.errors import ConfigError, DataError, WorkerError
from revlens.sweeps import Backend, InThisProcess, Processes, Resources, Task, run_tasks
from revlens.sweeps.worker import portable

ONE, TWO = Processes(1), Processes(2, one_thread=False)


def writing(folder: Path) -> list[Task]:
    """Two first tasks, and two that read what these wrote; not in this order."""
    before = ("first-0", "first-1")
    last = [
        Task(f"last-{i}", sweep_tasks.write, (folder / f"last-{i}", before), after=before) for i in range(2)
    ]
    return [*last, *(Task(name, sweep_tasks.write, (folder / name, ())) for name in before)]


WRITTEN = {
    "first-0": "first-0",
    "first-1": "first-1",
    "last-0": "last-0 first-0 first-1",
    "last-1": "last-1 first-0 first-1",
}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_tasks_run_in_order_tick_and_are_not_repeated(tmp_path: Path) -> None:
    ticks: Counter[str] = Counter()
    for _ in range(2):
        run_tasks(writing(tmp_path), on=InThisProcess(), on_tick=lambda label, n: ticks.update({label: n}))
        assert contents(tmp_path) == WRITTEN
    assert ticks == {"write": 4 * 3}


def test_processes_do_the_same_although_one_is_killed(tmp_path: Path) -> None:
    ticks: Counter[str] = Counter()
    (tmp_path / "files").mkdir()
    tasks = [Task("dies", sweep_tasks.die, (tmp_path, 1)), *writing(tmp_path / "files")]
    run_tasks(tasks, on=TWO, on_tick=lambda label, n: ticks.update({label: n}))
    assert contents(tmp_path / "files") == WRITTEN
    assert ticks == {"write": 4 * 3, "die": 2}
    assert (tmp_path / "death0").is_file()


def test_no_tasks_are_done_at_once() -> None:
    run_tasks([])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([Task("a", sweep_tasks.fail), Task("a", sweep_tasks.fail)], "Two tasks are called 'a'"),
        ([Task("a", sweep_tasks.fail, after=("b",))], "Task 'a' waits for 'b', which is not among the tasks"),
        (
            [Task("a", sweep_tasks.fail, after=("b",)), Task("b", sweep_tasks.fail, after=("a",))],
            "in a circle: (a after b after a|b after a after b)",
        ),
    ],
)
def test_tasks_that_cannot_be_ordered_are_refused(tasks: list[Task], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_tasks(tasks)


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: Processes(0),
        lambda: Resources(n_cpus=0.0),
        lambda: Resources(n_gpus=1.5),
        lambda: Resources(memory=-1),
    ):
        with pytest.raises(ConfigError, match="0|whole"):
            make()
    with pytest.raises(ConfigError, match="retries=-1"):
        run_tasks([], retries=-1)


@pytest.mark.parametrize("backend", [InThisProcess(), ONE], ids=["here", "processes"])
def test_what_a_task_raises_surfaces_with_its_name_and_is_not_retried(backend: Backend) -> None:
    with pytest.raises(DataError, match="no data") as caught:
        run_tasks([Task("reads", sweep_tasks.fail, (DataError("no data"),))], on=backend)
    assert str(caught.value) == "no data"
    assert caught.value.__notes__ == ["In task 'reads'."]


def test_errors_are_made_fit_to_be_sent() -> None:
    def sent(error: Exception) -> Exception:
        try:
            raise error from ValueError("why")
        except Exception as raised:
            return portable(raised)

    explained = sent(DataError("no data"))
    assert (str(explained), getattr(explained, "__notes__", [])) == ("no data", [])
    other = sent(KeyError("gone"))
    assert isinstance(other, KeyError)
    assert "ValueError: why" in other.__notes__[0]
    assert "KeyError: 'gone'" in other.__notes__[0]
    odd = sent(sweep_tasks.OddError("this", "that"))
    assert (type(odd), str(odd)) == (RuntimeError, "OddError: this and that")
    assert "sweep_tasks.OddError" in odd.__notes__[0]


def test_a_task_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(Exception, match="lambda|local") as caught:
        run_tasks([Task("stuck", lambda tick: None)], on=ONE)
    assert "Task 'stuck' cannot be sent to another process" in caught.value.__notes__[0]


@pytest.mark.slow
def test_a_task_that_is_killed_again_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        WorkerError, match=r"The process of task 'doomed' died 2 times, at last: killed by SIGKILL\."
    ):
        run_tasks([Task("doomed", sweep_tasks.die, (tmp_path, 9))], on=ONE)
    assert sorted(contents(tmp_path)) == ["death0", "death1"]


def test_a_failure_ends_what_is_running_and_leaves_no_scratch_files(tmp_path: Path) -> None:
    tasks = [
        Task("busy", sweep_tasks.be_busy, (tmp_path,)),
        Task("fails", sweep_tasks.fail_when_there, (tmp_path,)),
    ]
    with pytest.raises(DataError, match="no such data"):
        run_tasks(tasks, on=TWO)
    assert list(tmp_path.iterdir()) == []


def test_a_terminated_sweep_ends_its_workers_and_leaves_no_scratch_files(tmp_path: Path) -> None:
    sweep = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(sweep_tasks.__file__).parent)},
    )
    try:
        sweep_tasks.wait_until(lambda: any(pid.read_text() for pid in tmp_path.glob(".partial-*/pid")))
        (pid,) = tmp_path.glob(".partial-*/pid")
        worker = int(pid.read_text())
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait(timeout=600) == 128 + signal.SIGTERM
    finally:
        sweep.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    run_tasks([Task("busy", sweep_tasks.be_busy, (Path(sys.argv[1]),))], on=Processes(1))
