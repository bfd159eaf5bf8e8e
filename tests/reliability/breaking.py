"""An experiment in a forked process that can be killed at any moment, and what it has left on disk."""

from __future__ import annotations

import functools
import hashlib
import importlib
import mmap
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import plotly.io as pio
import pytest
from kaleido.errors import ChromeNotFoundError

from conftest import TINY
from revlens import cli
from revlens.experiment import ExperimentConfig
from revlens.experiment.run import prepare
from revlens.locks import LOCK
from revlens.sweeps import InThisProcess, OnTick
from revlens.sweeps.backend import Workers
from revlens.sweeps.worker import prepare_process

_WIDTH = 16

#: Two arms of one seed of a still smaller organism: every stage, and little else.
SMALL = ExperimentConfig(
    subject=replace(
        TINY,
        world=replace(TINY.world, n_direction=6, n_drift=6, n_behaviour=4, n_harmless=4, n_task_test=4),
        model=replace(TINY.model, n_layers=2),
        helpful=replace(TINY.helpful, steps=6),
        alignment=replace(TINY.alignment, steps=3),
    ),
    seeds=(0,), arms=("baseline", "block"), steps=(1, 3), reply_tokens=2, n_null_draws=50, n_controls=1,
)  # fmt: skip


def no_chromium(*args: object, **kwargs: object) -> None:
    raise ChromeNotFoundError("no Chromium here")


@dataclass
class Spot:
    """Where a forked process is, in memory that is shared with it."""

    memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _WIDTH))

    def set(self, label: str) -> None:
        self.memory[:] = label.encode().ljust(_WIDTH)

    def get(self) -> str:
        return self.memory[:].decode().strip("\0 ")


@dataclass(frozen=True)
class Telling:
    """Runs tasks here and tells from which stage it has heard last."""

    spot: Spot

    @contextmanager
    def open(self, n_tasks: int, on_tick: OnTick) -> Iterator[Workers]:
        def tell(label: str, n: int) -> None:
            self.spot.set(label)
            on_tick(label, n)

        with InThisProcess().open(n_tasks, tell) as queue:
            yield queue


@dataclass(frozen=True)
class Child:
    """A forked process."""

    pid: int
    errors: int

    def wait(self, seconds: float = 600.0) -> int | None:
        """Its exit status; None if it has not ended by then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def error(self) -> str:
        """What an ended process wrote to its standard error."""
        with os.fdopen(self.errors, "rb") as stream:
            return stream.read().decode()


def fork(action: Callable[[], int]) -> Child:
    """Run an action in a copy of this process; what it returns is the exit status."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writing, 2)
        os.environ["COLUMNS"] = "1000"
        import sys

        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        status = action()
        sys.stderr.flush()
    finally:
        os._exit(status)


@contextmanager
def forkable(cache: Path, spot: Spot) -> Iterator[None]:
    """Experiments run in the process that is asked to, without a Chromium, with this cache."""
    run_module = importlib.import_module("revlens.experiment.run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVLENS_CACHE", str(cache))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setattr(pio, "write_images", no_chromium)
        patch.setattr(run_module, "default_backend", lambda config, n_workers=None: Telling(spot))
        for name in ("_analyse", "_report"):
            patch.setattr(cli, name, _told(spot, name[1:], getattr(cli, name)))
        yield


def _told(spot: Spot, label: str, verb: Callable[..., None]) -> Callable[..., None]:
    def tell(*args: object) -> None:
        spot.set(label)
        verb(*args)

    return tell


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, scratch and hidden ones too, but for locks, which a kill leaves and which mean nothing by themselves."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Bench:
    """The folder of an output and its cache, and where a forked process is. Manifests name the cache's path, so all runs share it."""

    folder: Path
    spot: Spot

    def start(self) -> Child:
        """`revlens reproduce`."""
        if not self.folder.exists():
            prepare(SMALL, self.folder / "out")
        with forkable(self.folder / "cache", self.spot):
            return fork(lambda: _reproduce(self.folder / "out"))


def _reproduce(out: Path) -> int:
    prepare_process(1)
    return cli.main(["reproduce", "--out", str(out)])


@dataclass(frozen=True)
class Unbroken:
    """What a run leaves that nobody interrupts, and how long it takes in seconds."""

    bench: Bench
    path: Path
    out: dict[str, str]
    cache: dict[str, str]
    seconds: float


@functools.cache
def unbroken_run(base: Path) -> Unbroken:
    """Run once in a session; tests copy what they change."""
    bench, start = Bench(base / "reliability" / "experiment", Spot()), time.monotonic()
    child = bench.start()
    assert child.wait() == 0, child.error()
    seconds = time.monotonic() - start
    left = contents(bench.folder / "out"), contents(bench.folder / "cache")
    finished = bench.folder.parent / "finished"
    (bench.folder / "out").rename(finished)
    shutil.rmtree(bench.folder)
    return Unbroken(bench, finished, *left, seconds)
