"""One writer in a folder; a kill leaves no lock behind."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from breaking import fork

from conftest import TINY
from revlens.cli import main
from revlens.errors import ConfigError, StorageError
from revlens.experiment import ExperimentConfig, prepare
from revlens.storage.atomic import SCRATCH
from revlens.storage.locks import LOCK, sole_writer
from revlens.subject import BenignRun


def hold(folder: Path, ready: mmap.mmap) -> Callable[[], int]:
    def action() -> int:
        with sole_writer(folder):
            ready[0] = 1
            time.sleep(600)
        return 0

    return action


def wait_for(memory: mmap.mmap) -> None:
    end = time.monotonic() + 60
    while not memory[0]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_second_process_is_refused_and_told_of_the_first(
    config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(config, tmp_path)
    ready = mmap.mmap(-1, 1)
    child = fork(hold(tmp_path, ready))
    try:
        wait_for(ready)
        assert main(["report", "--out", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert f"Another revlens process ({child.pid} on " in message
        assert f"is writing in {tmp_path}" in message
    finally:
        child.kill()
    assert (tmp_path / LOCK).is_file()  # a kill leaves the file, but not the lock
    with sole_writer(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")
    assert not (tmp_path / LOCK).exists()


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    (tmp_path / "a" / f"{SCRATCH}folder-x").mkdir(parents=True)
    (tmp_path / "a" / f"{SCRATCH}folder-x" / "half").touch()
    (tmp_path / f"{SCRATCH}7-half.json").touch()
    (tmp_path / "whole").touch()
    with sole_writer(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [LOCK, "a", "whole"]


def test_a_folder_that_stays_empty_is_not_left(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_of_two_processes_trains_and_the_other_waits_for_it(tmp_path: Path) -> None:
    run = BenignRun(replace(TINY, benign=replace(TINY.benign, learning_rate=2e-3)), seed=0, steps=(1, 3))
    run.subject.start(0)
    updates = mmap.mmap(-1, 2)

    def train(process: int) -> int:
        def count(step: int) -> None:
            updates[process] += 1
            time.sleep(0.2)

        run.train(on_step=count)
        return 0

    child = fork(lambda: train(1))
    train(0)
    assert child.wait() == 0
    assert sorted(updates[:]) == [0, 3]
    assert run.is_done


def test_waiters_get_their_turn_one_by_one(tmp_path: Path) -> None:
    """Eight processes each add one to a number in a file fifty times; no addition is lost."""
    folder = tmp_path / "shared"

    def add() -> int:
        for _ in range(50):
            with sole_writer(folder, wait=True):
                path = folder.parent / "number"
                path.write_text(str(int(path.read_text()) + 1))
        return 0

    (tmp_path / "number").write_text("0")
    children = [fork(add) for _ in range(8)]
    assert [child.wait() for child in children] == [0] * 8
    assert (tmp_path / "number").read_text() == "400"


def test_an_error_inside_is_not_taken_for_one_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of somebody else") as raised, sole_writer(tmp_path):
        raise OSError("of somebody else")
    assert not isinstance(raised.value, StorageError)


def test_processes_that_were_launched_together_do_not_wait_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="2 processes were launched together"),
        sole_writer(tmp_path / "run", wait=True),
    ):
        pass
    assert not (tmp_path / "run").exists()
    with sole_writer(tmp_path / "run"):  # refuses at once if another writes there
        assert (tmp_path / "run" / LOCK).is_file()
