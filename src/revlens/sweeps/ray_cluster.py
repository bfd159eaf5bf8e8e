"""Running tasks on a Ray cluster, or on a Ray of this machine alone."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from revlens.errors import ConfigError
from revlens.sweeps.backend import OnTick, Outcome
from revlens.sweeps.task import Resources, Task
from revlens.sweeps.worker import portable, prepare_process

#: Packages whose versions decide the numbers; every machine must have those of this process.
PACKAGES = ("revlens", "torch", "transformers", "tokenizers", "transformer-lens", "peft")
_BETWEEN_TICKS = 0.2  # seconds between two messages of a task about its progress
_PATIENCE = 60.0  # seconds in which a cancelled task removes its scratch files


@dataclass(frozen=True)
class RayCluster:
    """Workers of Ray. Every machine has revlens installed, and sees outputs under the same path as this one.

    A task takes its `Resources` and one thread a core of these, so that numbers do not depend on the
    machine's number of cores. An existing connection of the caller to a Ray is used.

    Attributes:
        address: of the cluster: ``auto`` on one of its machines, ``HOST:PORT``, or ``ray://HOST:PORT``. None
            starts a Ray of this machine for the sweep, without a dashboard, and stops it afterwards.
        n_workers: cores of the Ray of this machine; all if None.
        shared: folders that every machine must see; checked before the first task.
        environment: environment variables of every task.

    Raises:
        ConfigError: if ``n_workers`` is below 1 or comes with an address.
    """

    address: str | None = None
    n_workers: int | None = None
    shared: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n_workers is not None and (self.n_workers < 1 or self.address is not None):
            raise ConfigError(
                f"n_workers={self.n_workers}, address={self.address}: a Ray of this machine has at least "
                "1 worker; a cluster's are its own."
            )

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The module ``ray``, connected to the cluster while the block lasts.

        Raises:
            ConfigError: if Ray is not installed or the cluster cannot be reached.
        """
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "Ray is not installed; pip install 'revlens[ray]', here and on every machine of the cluster."
            ) from None
        if ray.is_initialized():
            yield ray
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address is None:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                ray.init(address="local", num_cpus=self.n_workers, include_dashboard=False, **quiet)
            else:
                ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"No Ray cluster can be reached at {self.address or 'this machine'}: {error}"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()

    @contextmanager
    def open(self, n_tasks: int, on_tick: OnTick) -> Iterator[_Cluster]:
        """See `Backend`.

        Raises:
            ConfigError: see `connected`; also if a machine does not see a shared folder or has other versions
                of packages.
        """
        with self.connected() as ray:
            check_machines(ray, self.shared)
            ticks = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ticks).remote()
            cluster = _Cluster(ray, self.environment, on_tick, ticks)
            try:
                yield cluster
            except BaseException:
                cluster.cancel()
                raise
            finally:
                ray.kill(ticks)


def check_machines(ray: Any, shared: tuple[Path, ...]) -> None:
    """Check that every machine of the cluster sees the shared folders and has the same packages.

    Raises:
        ConfigError: if one does not see a shared folder as it is here, or has other versions of `PACKAGES`.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marks = [folder.resolve() / f".{uuid4().hex}" for folder in shared]
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        answers = ray.get(
            [
                look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(i, soft=False)).remote(marks)
                for i in nodes
            ]
        )
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)
    here = _versions()
    for name, (unseen, there) in zip(nodes.values(), answers, strict=True):
        if unseen:
            raise ConfigError(
                f"{name} does not see {unseen[0].parent} as this machine does; "
                "put it on a file system that all share."
            )
        if there != here:
            raise ConfigError(
                f"{name} has {there}, this machine has {here}; install the same versions on every machine."
            )


def _look(marks: list[Path]) -> tuple[list[Path], dict[str, str]]:
    """The marks that a machine does not see, and its versions."""
    return [mark for mark in marks if not mark.is_file()], _versions()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


@dataclass
class _Cluster:
    ray: Any
    environment: Mapping[str, str]
    on_tick: OnTick
    ticks: Any  # the actor that counts ticks
    running: dict[Any, Task] = field(default_factory=dict)

    def submit(self, task: Task) -> None:
        needs = task.resources
        self._require(task.name, needs)
        run_one = self.ray.remote(_run_one).options(
            name=task.name,
            num_cpus=needs.n_cpus,
            num_gpus=needs.n_gpus,
            memory=needs.memory or None,
            max_retries=0,  # `run_tasks` counts them
        )
        self.running[run_one.remote(task, dict(self.environment), self.ticks)] = task

    def finished(self) -> list[Outcome]:
        ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0.2)
        # Fetched after the tasks have ended: an ended task has sent all of its ticks.
        for label, n in self.ray.get(self.ticks.take.remote()).items():
            self.on_tick(label, n)
        return [self._outcome(reference) for reference in ready]

    def cancel(self) -> None:
        """End running tasks, by an interrupt first."""
        for reference in self.running:
            self.ray.cancel(reference)
        if self.running:
            _, left = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=_PATIENCE)
            for reference in left:
                self.ray.cancel(reference, force=True)

    def _outcome(self, reference: Any) -> Outcome:
        from ray import exceptions

        name = self.running.pop(reference).name
        deaths = (
            exceptions.WorkerCrashedError,
            exceptions.OutOfMemoryError,
            exceptions.NodeDiedError,
            exceptions.LocalRayletDiedError,
            exceptions.ObjectLostError,
        )
        try:
            return Outcome(name, error=self.ray.get(reference))
        except deaths as error:
            return Outcome(name, death=f"{type(error).__name__}: {str(error).splitlines()[0]}")
        except exceptions.RayTaskError as error:  # it did not begin: its function is missing, for example
            return Outcome(name, error=error.cause)
        except exceptions.RayError as error:
            return Outcome(name, error=error)

    def _require(self, name: str, needs: Resources) -> None:
        wanted = {"CPU": needs.n_cpus, "GPU": needs.n_gpus, "memory": needs.memory}
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(machine.get(kind, 0) >= n for kind, n in wanted.items()) for machine in machines):
            raise ConfigError(f"Task {name!r} takes {needs}; no machine of the cluster has that: {machines}.")


class _Ticks:
    """An actor that counts ticks until they are fetched."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        self._counts.update(counts)

    def take(self) -> dict[str, int]:
        counts, self._counts = dict(self._counts), Counter()
        return counts


class _Ticker:
    """Counts a task's ticks, and sends them from time to time."""

    def __init__(self, ticks: Any) -> None:
        self._ticks, self._counts, self._sent = ticks, Counter[str](), time.monotonic()

    def tick(self, label: str) -> None:
        self._counts[label] += 1
        if time.monotonic() - self._sent > _BETWEEN_TICKS:
            self.send()

    def send(self) -> Any:
        counts, self._counts, self._sent = dict(self._counts), Counter(), time.monotonic()
        return self._ticks.add.remote(counts)


def _run_one(task: Task, environment: dict[str, str], ticks: Any) -> Exception | None:
    """Run a task in a worker, and return its exception: Ray would wrap it in an error of its own."""
    import ray

    os.environ.update(environment)
    prepare_process(max(1, int(task.resources.n_cpus)))
    ticker = _Ticker(ticks)
    try:
        task.function(*task.args, ticker.tick)
    except Exception as error:
        return portable(error)
    finally:
        ray.get(ticker.send())
    return None
