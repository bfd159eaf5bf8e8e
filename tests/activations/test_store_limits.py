"""A store larger than memory, and disks that are full."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from revlens.activations import Activations
from revlens.activations.writer import store_writer
from revlens.errors import StorageError
from stores import Given, fill, manifest_of

MIB = 2**20


def in_a_process_of_its_own(work: Callable[[], None]) -> None:
    """Limits of a process cannot be lifted again, so it gets one; its exit status is what it found."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def data_bytes() -> int:
    """Private writable memory of this process: what RLIMIT_DATA counts."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    ]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_a_store_larger_than_memory_is_written_and_averaged(tmp_path: Path) -> None:
    """Mapped shards count as data here too, so that a reader which kept them all would fail as well."""
    room, shard = 96 * MIB, (64, 8, 4096)  # a shard of 8 MiB
    n_shards = (data_bytes() + room) // (8 * MIB) + 8
    manifest = manifest_of({"drift": 64 * n_shards}, ["aligned"], range(8), shard_prompts=64)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + room,) * 2)
        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        try:
            torch.ones(limit // 4)
        except RuntimeError:  # so the limit holds
            pass
        else:
            raise AssertionError
        with store_writer(tmp_path, manifest) as writer:
            for i, missing in enumerate(writer.missing("aligned")):
                writer.write(missing, torch.full(shard, float(i)))
        acts = Activations.open(tmp_path)
        assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) > limit
        total = sum(piece.sum(0)[0, 0] for piece in acts.pieces("aligned", "drift", layers=[3]))
        assert total == 64 * sum(range(n_shards))
        assert torch.equal(
            acts.at("aligned", "drift", layers=[7], prompts=slice(-1, None)),
            torch.full((1, 1, 4096), n_shards - 1.0).double(),
        )
        try:
            acts.at("aligned", "drift")
        except RuntimeError:  # the whole does not fit
            pass
        else:
            raise AssertionError

    in_a_process_of_its_own(work)


def small_store() -> tuple[Given, dict[str, object]]:
    values = torch.randn(8, 4, 1024, generator=torch.Generator().manual_seed(0))  # 128 KiB, in four shards
    return {name: {"drift": values} for name in ("reference", "aligned")}, {"shard_prompts": 2}


def write_all(root: Path) -> Activations:
    given, settings = small_store()
    return fill(root, manifest_of({"drift": 8}, list(given), range(4), **settings), given)


def assert_whole(root: Path) -> None:
    """Everything that is listed is whole, and there is nothing else."""
    shards = Activations.open(root).manifest.shards
    assert {path.name: path.stat().st_size for path in root.iterdir() if path.name != "manifest.json"} == {
        name: entry.n_bytes for name, entry in shards.items()
    }


def test_a_file_that_may_not_grow_is_a_clean_error(tmp_path: Path) -> None:
    """As a full disk shows itself, but with EFBIG; Python ignores the signal that comes with it."""
    root, whole = tmp_path / "acts", tmp_path / "whole"
    write_all(whole)

    def work() -> None:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (20_000, 20_000)
        )  # the manifest fits, a shard of 32 KiB does not
        with pytest.raises(
            StorageError, match=r"drift\.00000\.safetensors cannot be written: File too large"
        ) as caught:
            write_all(root)
        assert caught.value.__cause__.errno == errno.EFBIG  # type: ignore[union-attr]

    in_a_process_of_its_own(work)
    assert_whole(root)
    write_all(root).verify()
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_a_clean_error_and_the_capture_goes_on_when_there_is_room(small_disk: Path) -> None:
    root = small_disk / "acts"
    with pytest.raises(StorageError, match="No space left on device"):
        write_all(root)
    assert_whole(root)
    kept = {path.name: path.stat().st_mtime_ns for path in root.glob("*.safetensors")}
    assert 0 < len(kept) < 8
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    acts = write_all(root)
    acts.verify()
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in root.glob("*.safetensors")}.items()
    expected: Tensor = small_store()[0]["aligned"]["drift"]
    assert torch.equal(acts.at("aligned", "drift"), expected.double())


def test_a_folder_that_cannot_be_made_is_a_clean_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be written"):
        write_all(tmp_path / "file" / "acts")
