"""Work in a forked process that tests kill, with or without its workers, and what it leaves on disk."""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.io as pio
import psutil
import pytest
from kaleido.errors import ChromeNotFoundError
from tqdm import tqdm

from conftest import SMALL, TINY
from revlens import experiment
from revlens.activations import Activations, capture
from revlens.activations.manifest import MANIFEST
from revlens.cli import main, running
from revlens.errors import ResultsError
from revlens.experiment import Guards, prepare
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.storage.atomic import SCRATCH
from revlens.storage.checksums import SUMS
from revlens.storage.locks import LOCK
from revlens.subject import BenignRun
from revlens.sweeps import Backend, InThisProcess, OnTick
from revlens.sweeps.backend import Workers
from revlens.sweeps.worker import prepare_process

_WIDTH = 16

#: Every part of a study of it, with few fine-tunes.
SMALL_STUDY = SMALL.with_plan(Guards(
    grid={"baseline": (None,), "block": (5.0,)}, lasting={"baseline": None}, released={"block": 5.0},
    long_steps=5, released_steps=4, tasks=TINY.tasks[:1], rates=(1.0,), directions=("other-alignment",),
))  # fmt: skip


def no_chromium(*args: object, **kwargs: object) -> None:
    raise ChromeNotFoundError("no Chromium here")


@dataclass
class Spot:
    """The stage that a forked process is at, in memory shared with it."""

    memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _WIDTH))

    def set(self, label: str) -> None:
        self.memory[:] = label.encode().ljust(_WIDTH)

    def get(self) -> str:
        return self.memory[:].decode().strip("\0 ")


@dataclass(frozen=True)
class Telling:
    """Runs tasks on another backend, and writes the stage of each tick into a `Spot`."""

    spot: Spot
    backend: Backend

    @contextmanager
    def open(self, n_tasks: int, on_tick: OnTick) -> Iterator[Workers]:
        def tell(label: str, n: int) -> None:
            self.spot.set(label)
            on_tick(label, n)

        with self.backend.open(n_tasks, tell) as workers:
            yield workers


@dataclass(frozen=True)
class Child:
    """A forked process. It leads a process group that contains its workers."""

    pid: int
    errors: int

    def wait(self, seconds: float = 600.0) -> int | None:
        """Its exit status; None if it has not ended within that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return None

    def kill(self) -> int:
        """Kill -9 the whole group. The exit status shows whether the process had ended before."""
        workers = self.workers()
        os.killpg(self.pid, signal.SIGKILL)
        return self._buried(workers)

    def kill_alone(self) -> int:
        """Kill -9 the process, but not its workers; otherwise as `kill`."""
        os.kill(self.pid, signal.SIGKILL)
        return self._buried([])

    def _buried(self, workers: list[psutil.Process]) -> int:
        _, status = os.waitpid(self.pid, 0)
        wait_for_end(workers)
        os.close(self.errors)
        return os.waitstatus_to_exitcode(status)

    def workers(self) -> list[psutil.Process]:
        """Its worker processes: those whose command line is that of multiprocessing's spawn."""
        return [
            child
            for child in psutil.Process(self.pid).children()
            if any("spawn_main" in word for word in _command(child))
        ]

    def error(self) -> str:
        """What an ended process wrote to its standard error."""
        with os.fdopen(self.errors, "rb") as stream:
            return stream.read().decode()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


def wait_for_end(processes: list[psutil.Process], seconds: float = 60.0) -> None:
    """Wait for processes that need not be children of this one."""
    end = time.monotonic() + seconds
    while running := [process for process in processes if is_running(process)]:
        assert time.monotonic() < end, f"{running} go on"
        time.sleep(0.01)


def is_running(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended but is not yet reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def fork(action: Callable[[], int]) -> Child:
    """Run an action in a copy of this process; its return value is the exit status."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        while os.getpgid(pid) != pid:
            time.sleep(0.001)
        return Child(pid, reading)
    status = 70
    try:
        os.setsid()  # in our session, the kernel would send SIGHUP to suspended workers when it dies
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writing, 2)
        os.environ["COLUMNS"] = "1000"
        # The lock of this process is shared, and a killed process may hold it.
        tqdm.set_lock(threading.RLock())
        import sys

        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        status = action()
        sys.stderr.flush()
    finally:
        os._exit(status)


@dataclass(frozen=True)
class Bench:
    """Work to start and kill, and the folder that it writes: an output in ``out``, a cache in ``cache``.

    Manifests name the cache's path, so all runs share the folder.

    Attributes:
        folder: created before the first start.
        lay: writes what the work begins with into the folder.
        work: started first, and again after a kill; returns the exit status and writes its stage to the spot.
        spot: the stage that the work is at.
    """

    folder: Path
    lay: Callable[[Path], object]
    work: Callable[[Path, Spot], int]
    spot: Spot = field(default_factory=Spot)

    def start(self) -> Child:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            self.lay(self.folder)
        self.spot.set("start")
        return fork(lambda: self.work(self.folder, self.spot))


def commanded(folder: Path, verb: str, backend: Backend) -> Bench:
    """`revlens reproduce` or `revlens study`, without a Chromium, with tasks on this backend."""

    def lay(folder: Path) -> None:
        prepare(SMALL_STUDY if verb == "study" else SMALL, folder / "out")

    def work(folder: Path, spot: Spot) -> int:
        prepare_process(1)
        with with_cache(folder) as patch:
            patch.setattr(pio, "write_images", no_chromium)
            patch.setattr(running, "where", lambda args, config: {"on": Telling(spot, backend)})
            for module, name, label in (
                (experiment, "analyse_and_save", "analyse"),
                (running, "_report", "report"),
            ):
                patch.setattr(module, name, _told(spot, label, getattr(module, name)))
            return main([verb, "--out", str(folder / "out")])

    return Bench(folder, lay, work)


def _told(spot: Spot, label: str, verb: Callable[..., Any]) -> Callable[..., Any]:
    def tell(*args: object) -> object:
        spot.set(label)
        return verb(*args)

    return tell


def capturing(folder: Path, history: TrainingHistory, probes: Probes) -> Bench:
    """A capture of every token of two splits, three prompts a shard."""

    def work(folder: Path, spot: Spot) -> int:
        prepare_process(1)
        capture(
            history,
            probes,
            folder / "out",
            positions="all",
            splits=("direction", "drift"),
            shard_prompts=3,
            on_checkpoint=spot.set,
        )
        return 0

    return Bench(folder, lambda folder: None, work)


def finetuning(folder: Path) -> Bench:
    """A benign fine-tune that saves every update, of a start that is there."""
    run, start = (
        BenignRun(SMALL.subject, seed=0, steps=(1, 2, 3, 4, 5)),
        folder.with_name(f"{folder.name}-start"),
    )
    with with_cache(start):
        SMALL.subject.start(0)

    def work(folder: Path, spot: Spot) -> int:
        prepare_process(1)
        with with_cache(folder):
            run.train(on_step=lambda step: spot.set("updates"))
        return 0

    return Bench(folder, lambda folder: shutil.copytree(start, folder, dirs_exist_ok=True), work)


@contextmanager
def with_cache(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVLENS_CACHE", str(folder / "cache"))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield patch


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, scratch and hidden ones too, but not of locks, which a kill leaves behind."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Unbroken:
    """What uninterrupted work leaves, and how many seconds it takes."""

    bench: Bench
    finished: Path
    contents: dict[str, str]
    seconds: float

    @property
    def path(self) -> Path:
        """The finished output."""
        return self.finished / "out"

    def check_half_done(self) -> None:
        """Every file of the bench's folder but scratch is whole; lists name nothing that is missing."""
        folder = self.bench.folder
        for name, digest in contents(folder).items():
            path = folder / name
            if any(part.startswith(SCRATCH) for part in Path(name).parts):
                continue
            if path.name == SUMS:  # grows
                assert set(path.read_text().splitlines()) <= set(
                    (self.finished / name).read_text().splitlines()
                )
            elif path.name == MANIFEST:  # grows
                check_store(path.parent, Activations.open((self.finished / name).parent))
            else:
                assert digest == self.contents[name], name


def check_store(root: Path, whole: Activations) -> None:
    """A store names what it lacks and refuses to read it; the rest equals the whole store."""
    store = Activations.open(root)
    missing = store.missing()
    for checkpoint in store.checkpoints:
        for shard in store.manifest.shards_of(checkpoint):
            held = store.manifest.prompts_of(shard)
            prompts = slice(held.start, held.stop)
            if root / shard.file in missing:
                with pytest.raises(ResultsError, match="was not captured yet"):
                    store.at(checkpoint, shard.split, prompts=prompts)
            else:
                assert store.at(checkpoint, shard.split, prompts=prompts).equal(
                    whole.at(checkpoint, shard.split, prompts=prompts)
                )


def unbroken(bench: Bench) -> Unbroken:
    """Do a bench's work once, and move what it leaves beside the bench's folder, which is then free."""
    start = time.monotonic()
    child = bench.start()
    assert child.wait() == 0, child.error()
    seconds = time.monotonic() - start
    finished = bench.folder.with_name(f"{bench.folder.name}-finished")
    bench.folder.rename(finished)
    return Unbroken(bench, finished, contents(finished), seconds)


@functools.cache
def unbroken_run(base: Path, verb: str) -> Unbroken:
    """`revlens reproduce` or `revlens study`, run once a session; tests copy what they change."""
    return unbroken(commanded(base / "reliability" / verb, verb, InThisProcess()))
