"""The store of activations beside `torch.save` and plain writes of the same bytes, in one run.

Every way ends with the bytes on the disk (fsync); the store also hashes them. Before a read the script drops
the files from the page cache (`posix_fadvise`). Runs take turns, so that other load of the machine falls on
all of them.

    python benchmarks/store.py [--quick] [--repeats N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from revlens.activations import Activations
from revlens.activations.manifest import Manifest
from revlens.activations.writer import store_writer

SPLIT, CHECKPOINT = "drift", "aligned"


@dataclass(frozen=True)
class Size:
    """Activations of one checkpoint on one split, in shards."""

    n_shards: int
    shard_prompts: int
    n_layers: int
    d_model: int

    @property
    def mib(self) -> float:
        return 4 * self.n_shards * self.shard_prompts * self.n_layers * self.d_model / 2**20

    def manifest(self) -> Manifest:
        return Manifest(
            {CHECKPOINT: "random numbers"}, {SPLIT: self.n_shards * self.shard_prompts}, {SPLIT: "0" * 64},
            tuple(range(self.n_layers)), "resid_post", "last", "float32", "float32", self.shard_prompts,
        )  # fmt: skip


Pieces = Sequence[Tensor]


def flush(path: Path) -> None:
    """Wait until the disk holds a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_store(folder: Path, size: Size, pieces: Pieces) -> None:
    with store_writer(folder, size.manifest()) as writer:
        for shard, piece in zip(writer.missing(CHECKPOINT), pieces, strict=True):
            writer.write(shard, piece)


def write_torch(folder: Path, size: Size, pieces: Pieces) -> None:
    folder.mkdir()
    for i, piece in enumerate(pieces):
        torch.save(piece, folder / f"{i}.pt")
        flush(folder / f"{i}.pt")


def write_raw(folder: Path, size: Size, pieces: Pieces) -> None:
    folder.mkdir()
    for i, piece in enumerate(pieces):
        (folder / f"{i}.bin").write_bytes(piece.numpy().data)
        flush(folder / f"{i}.bin")


def read_store(folder: Path, size: Size, layer: int | None) -> Tensor:
    return total(
        Activations.open(folder).pieces(CHECKPOINT, SPLIT, layers=None if layer is None else [layer])
    )


def read_torch(folder: Path, size: Size, layer: int | None) -> Tensor:
    files = (torch.load(folder / f"{i}.pt", weights_only=True, mmap=True) for i in range(size.n_shards))
    return total((file if layer is None else file[:, [layer]]).double() for file in files)


def read_raw(folder: Path, size: Size, layer: int | None) -> Tensor:
    """All bytes, whatever the layer."""
    shape = (size.shard_prompts, size.n_layers, size.d_model)
    files = (
        torch.frombuffer(bytearray((folder / f"{i}.bin").read_bytes()), dtype=torch.float32).view(shape)
        for i in range(size.n_shards)
    )
    return total((file if layer is None else file[:, [layer]]).double() for file in files)


def total(pieces: object) -> Tensor:
    """The sum over prompts, which touches every number."""
    return torch.stack([piece.sum(0) for piece in pieces]).sum(0)  # type: ignore[attr-defined]


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(spent: list[float], work: Callable[..., Tensor | None], *args: object) -> Tensor | None:
    """Do the work, and note its seconds."""
    start = time.perf_counter()
    result = work(*args)
    spent.append(time.perf_counter() - start)
    return result


def read_again(acts: Activations, size: Size, layer: int) -> Tensor:
    """A later read from an opened store, which has hashed its shards."""
    return total(acts.pieces(CHECKPOINT, SPLIT, layers=[layer]))


WAYS = {"store": (write_store, read_store), "torch": (write_torch, read_torch), "raw": (write_raw, read_raw)}
DONE = ("write", "first read of all", "first read of one layer", "later read of one layer")


def measure(size: Size, repeats: int, root: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds by operation and by way, one number for each repeat."""
    generator = torch.Generator().manual_seed(0)
    pieces = [
        torch.randn(size.shard_prompts, size.n_layers, size.d_model, generator=generator)
        for _ in range(size.n_shards)
    ]
    layer = size.n_layers // 2
    spent: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in DONE}
    for repeat in range(repeats):
        sums = []
        for way in [*WAYS][repeat % 3 :] + [*WAYS][: repeat % 3]:
            write, read = WAYS[way]
            folder = root / way
            writing, reading, one_layer, later = (spent[name][way] for name in DONE)
            timed(writing, write, folder, size, pieces)
            forget(folder)
            sums.append(timed(reading, read, folder, size, None))
            forget(folder)
            timed(one_layer, read, folder, size, layer)
            if way == "store":
                acts = Activations.open(folder)
                read_again(acts, size, layer)
                forget(folder)
                timed(later, read_again, acts, size, layer)
            else:
                forget(folder)
                timed(later, read, folder, size, layer)
            shutil.rmtree(folder)
        assert all(torch.equal(sums[0], other) for other in sums[1:]), "the three read different numbers"
    return spent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="16 MiB instead of 1 GiB")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="on the disk to measure; the system's folder for temporary files if not given",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = Size(4, 64, 16, 1024) if options.quick else Size(16, 512, 16, 2048)
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        spent = measure(size, options.repeats, Path(root))
    table = Table(
        "", "store, MiB/s", "torch, MiB/s", "plain files, MiB/s", "torch / store: min / median / max",
        "plain / store: min / median / max",
        title=f"{size.mib:.0f} MiB in {size.n_shards} files, {options.repeats} repeats, "
        f"torch {torch.__version__}, {platform.machine()}",
    )  # fmt: skip
    for name, ways in spent.items():
        rates = [f"{size.mib / statistics.median(times):.0f}" for times in ways.values()]
        ratios = []
        for way in ("torch", "raw"):
            values = [other / ours for other, ours in zip(ways[way], ways["store"], strict=True)]
            ratios.append(f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}")
        table.add_row(name, *rates, *ratios)
    Console(width=180).print(table)
    print(
        "Ratios are of seconds: above 1 the store is faster. MiB/s of one layer count the bytes of the store."
    )


if __name__ == "__main__":
    main()
