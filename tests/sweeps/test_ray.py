"""A sweep on a local Ray of two workers: its outputs are those of processes, also when a worker is killed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import sweep_tasks
from conftest import SMALL
from revlens.errors import ConfigError, DataError
from revlens.experiment import run_experiment
from revlens.storage.atomic import SCRATCH
from revlens.storage.locks import LOCK
from revlens.sweeps import InThisProcess, RayCluster, Resources, Task, run_tasks

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def _ray_of_two_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(sweep_tasks.__file__).parent))  # workers import the tests' tasks
        with RayCluster(n_workers=2).connected():
            yield
    assert not ray.is_initialized()


def writing(folder: Path) -> list[Task]:
    before = ("first-0", "first-1")
    folder.mkdir()
    first = [Task(name, sweep_tasks.write, (folder / name, ())) for name in before]
    return [*first, Task("last", sweep_tasks.write, (folder / "last", before), after=before)]


def test_a_sweep_with_a_killed_worker_is_complete_and_equal_to_one_without(tmp_path: Path) -> None:
    ticks: Counter[str] = Counter()
    tasks = [Task("dies", sweep_tasks.die, (tmp_path, 1)), *writing(tmp_path / "ray")]
    run_tasks(tasks, on=RayCluster(shared=(tmp_path,)), on_tick=lambda label, n: ticks.update({label: n}))
    run_tasks(writing(tmp_path / "here"), on=InThisProcess())
    for path in (tmp_path / "here").iterdir():
        assert (tmp_path / "ray" / path.name).read_text() == path.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["death0", "here", "ray"]
    assert ticks["write"] == 3 * 3
    assert 1 <= ticks["die"] <= 2  # a killed task's last ticks may not have been sent


def test_a_failure_ends_what_is_running_and_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    """A busy machine may kill a task that ends too slowly; its scratch files stay until the next writer."""
    tasks = [
        Task("busy", sweep_tasks.be_busy, (tmp_path,)),
        Task("fails", sweep_tasks.fail_when_there, (tmp_path,)),
    ]
    with pytest.raises(DataError, match="no such data") as caught:
        run_tasks(tasks, on=RayCluster())
    assert caught.value.__notes__ == ["In task 'fails'."]
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(SCRATCH)] == []


@pytest.mark.slow
def test_an_experiment_on_ray_leaves_the_files_of_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    cache = tmp_path / "cache"
    monkeypatch.setenv("REVLENS_CACHE", str(cache))
    ray = RayCluster(shared=(tmp_path,), environment={"REVLENS_CACHE": str(cache)})
    left = []
    for backend in (InThisProcess(), ray):
        run_experiment(SMALL, tmp_path / "out", on=backend, console=Console(quiet=True))
        files = [
            path
            for top in ("out", "cache")
            for path in (tmp_path / top).rglob("*")
            if path.is_file() and path.name != LOCK
        ]
        left.append({str(path.relative_to(tmp_path)): path.read_bytes() for path in files})
        for top in ("out", "cache"):  # both have the same paths, which manifests name
            shutil.rmtree(tmp_path / top)
    assert left[0].keys() == left[1].keys()
    assert [name for name in left[0] if left[0][name] != left[1][name]] == []
    assert {"key", "losses.json", "behaviour.json"} <= {Path(name).name for name in left[0]}


def test_the_environment_and_threads_of_a_task_are_set(tmp_path: Path) -> None:
    needs = Resources(n_cpus=2.0)
    task = Task("looks", sweep_tasks.look_around, (tmp_path / "seen", "REVLENS_TEST"), resources=needs)
    run_tasks([task], on=RayCluster(environment={"REVLENS_TEST": "here"}))
    assert (tmp_path / "seen").read_text() == "here, 2 threads, deterministic: True"


def test_what_no_machine_has_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="Task 'large' takes .*n_gpus=8.0.*no machine of the cluster has that"
    ):
        run_tasks([Task("large", sweep_tasks.fail, resources=Resources(n_gpus=8.0))], on=RayCluster())
    with pytest.raises(ConfigError, match="a cluster's are its own"):
        RayCluster("auto", n_workers=2)


def test_a_machine_that_does_not_see_a_shared_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda path: None)  # this process writes what no machine sees
    with pytest.raises(ConfigError, match=f"does not see {tmp_path} as this machine does"):
        run_tasks([Task("any", sweep_tasks.fail)], on=RayCluster(shared=(tmp_path,)))


def test_a_machine_with_other_versions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revlens.sweeps.ray_cluster._versions", lambda: {"revlens": "0"})
    with pytest.raises(ConfigError, match="install the same versions on every machine"):
        run_tasks([Task("any", sweep_tasks.fail)], on=RayCluster())
