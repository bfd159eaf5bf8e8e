"""A full disk and folders without write permission: errors name the path, and no file is half written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from breaking import fork
from safetensors.torch import save_file

from revlens.cli import main
from revlens.errors import StorageError
from revlens.experiment import ExperimentConfig, prepare
from revlens.history import TrainingHistory, save
from revlens.storage.atomic import atomic_directory, atomic_file, write_text

WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 100_000),
    "safetensors": lambda path: save_file({"x": torch.zeros(100_000)}, path),
    "parquet": lambda path: pd.DataFrame({"x": torch.randn(100_000).tolist()}).to_parquet(path),
}


def with_small_files(action: Callable[[], int], most: int) -> Callable[[], int]:
    """Writes beyond ``most`` bytes of a file fail as on a full disk."""

    def limited() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return action()

    return limited


def said(action: Callable[[], object]) -> Callable[[], int]:
    """Print the storage error that an action ends with."""

    def told() -> int:
        try:
            action()
        except StorageError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    return told


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_with_the_file_and_keeps_the_old_one(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "there.bin"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as partial:
            WRITERS[writer](partial)

    child = fork(with_small_files(said(write), 5000))
    assert child.wait() == 2
    message = child.error()
    assert message.startswith(f"{path} cannot be written: ")
    assert "File too large" in message
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.parametrize("most", [100, 20_000])
def test_a_full_disk_under_a_checkpoint_leaves_the_old_one(
    most: int, history: TrainingHistory, tmp_path: Path
) -> None:
    bridge = history.aligned.load()
    path = tmp_path / "step-3"
    with atomic_directory(path) as partial:
        (partial / "old").touch()
    child = fork(with_small_files(said(lambda: save(bridge, path)), most))
    assert child.wait() == 2
    assert f"{path} cannot be written: " in child.error()
    assert [p.name for p in tmp_path.rglob("*")] == ["step-3", "old"]


def test_a_full_disk_ends_a_command_with_an_explanation(tmp_path: Path) -> None:
    child = fork(with_small_files(lambda: main(["history", "--quick", "--out", str(tmp_path / "out")]), 10))
    assert child.wait() == 2
    message = child.error()
    assert message.startswith(f"revlens: {tmp_path / 'out'}")
    assert "cannot be written: File too large. Make room" in message


def test_a_folder_without_permission_ends_a_command_with_an_explanation(config: ExperimentConfig) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        prepare(config, folder / "out")
        folder.chmod(0o755)
        for path in (folder / "out").rglob("*"):
            path.chmod(0o444)
        (folder / "out").chmod(0o555)

        def as_nobody() -> int:
            if os.geteuid() == 0:  # root may write anywhere
                os.setuid(65534)
            return main(["history", "--out", str(folder / "out")])

        child = fork(as_nobody)
        assert child.wait() == 2
        assert child.error().startswith(f"revlens: {folder / 'out'} cannot be written: Permission denied.")
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["config.json", "key"]
    finally:
        (folder / "out").chmod(0o755)
        shutil.rmtree(folder)


def test_an_error_of_a_file_that_was_read_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, atomic_file(tmp_path / "x") as partial:
        partial.write_text((tmp_path / "elsewhere").read_text())
    assert not isinstance(raised.value, StorageError)


def test_a_directory_is_replaced_in_one_step(tmp_path: Path) -> None:
    """A reader that looks again and again always finds one of the two, whole."""
    path = tmp_path / "folder"
    with atomic_directory(path) as partial:
        write_text(partial / "n", "0")

    def replace() -> int:
        for i in range(1, 100):
            with atomic_directory(path) as partial:
                write_text(partial / "n", str(i))
        return 0

    child = fork(replace)
    looks = 0
    while (status := child.wait(0.001)) is None:
        assert path.is_dir()
        looks += 1
    assert status == 0
    assert looks > 0
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "n"]
