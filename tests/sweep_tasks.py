"""Tasks for tests of sweeps, in a module that other processes can import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from revlens.errors import DataError
from revlens.storage.atomic import atomic_directory, write_text
from revlens.sweeps import Tick


class OddError(Exception):
    """Cannot be rebuilt from its arguments, as many exceptions cannot."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(f"{a} and {b}")


def write(path: Path, before: tuple[str, ...], tick: Tick) -> None:
    """Write its own name, and the content of the files beside it that it depends on."""
    if path.is_file():
        return
    for _ in range(3):
        tick("write")
    write_text(path, " ".join([path.name, *(path.with_name(name).read_text() for name in before)]))


def die(folder: Path, times: int, tick: Tick) -> None:
    """Be killed, as by a system that runs out of memory, the first ``times`` times; deaths are files."""
    tick("die")
    deaths = len(list(folder.glob("death*")))
    if deaths < times:
        (folder / f"death{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fail(error: Exception, tick: Tick) -> None:
    raise error


def fail_when_there(folder: Path, tick: Tick) -> None:
    """Fail once another task is at work."""
    wait_until(lambda: any(folder.glob(".partial-*")))
    raise DataError("no such data")


def be_busy(folder: Path, tick: Tick) -> None:
    """Write until it is killed."""
    with atomic_directory(folder / "busy") as partial:
        (partial / "pid").write_text(str(os.getpid()))
        while True:
            tick("busy")
            time.sleep(0.05)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait at most ten minutes: on a busy machine processes start slowly."""
    for _ in range(12_000):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def look_around(path: Path, variable: str, tick: Tick) -> None:
    import torch

    write_text(
        path,
        f"{os.environ[variable]}, {torch.get_num_threads()} threads, "
        f"deterministic: {torch.are_deterministic_algorithms_enabled()}",
    )
