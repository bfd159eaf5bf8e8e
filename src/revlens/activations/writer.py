"""Write a store of activations in a thread of its own, while the model computes the next shard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from revlens.activations.manifest import MANIFEST, Manifest, Shard
from revlens.activations.shard_file import write_shard
from revlens.errors import ResultsError
from revlens.storage import sole_writer

#: Shards that may wait for the disk. With the one being written and the one being computed: all in memory.
WAITING = 2


class _Job(NamedTuple):
    shard: Shard
    values: Float[Tensor, "row layer d_model"]
    offsets: Int[Tensor, " prompt_and_end"] | None


@contextmanager
def store_writer(root: Path, manifest: Manifest) -> Iterator[StoreWriter]:
    """A writer that continues what a folder holds. Leaving the context waits until all shards are written.

    Args:
        root: the store's folder; made if there is none.
        manifest: what to store, without shards.

    Raises:
        ResultsError: if the folder holds something else, naming what differs.
        StorageError: if the folder or a shard cannot be written, or another process writes there.
    """
    with sole_writer(root):
        continued = _continued(root, manifest)
        if not (root / MANIFEST).is_file() or continued != Manifest.read(root):
            continued.write(root)
        writer = StoreWriter(root, continued)
        try:
            yield writer
        except BaseException as error:
            writer.close()
            if writer.error not in (None, error):
                error.add_note(f"Besides, writing to {root} failed: {writer.error}")
            raise
        writer.close()
        writer.check()


class StoreWriter:
    """Writes shards, and after each one its entry in the manifest.

    A process that is killed at any moment leaves every shard whole or not at all.

    Attributes:
        error: what went wrong in the thread; None if nothing did.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._root = root
        self._manifest = manifest
        self.error: BaseException | None = None
        self._queue: Queue[_Job | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def missing(self, checkpoint: str) -> list[Shard]:
        """Shards of a checkpoint that have no entry, or no file of the size of their entry."""
        return [
            shard
            for shard in self._manifest.shards_of(checkpoint)
            if not self._manifest.is_there(self._root, shard)
        ]

    def begin(self, checkpoint: str, fingerprint: str) -> None:
        """Say which weights the next shards of a checkpoint come from.

        Raises:
            ResultsError: if the store has shards of this checkpoint from other weights.
        """
        self.flush()
        before = self._manifest.weights.get(checkpoint, fingerprint)
        if before != fingerprint and len(self.missing(checkpoint)) < len(
            list(self._manifest.shards_of(checkpoint))
        ):
            raise ResultsError(
                f"{self._root} holds shards of {checkpoint} that other weights gave (fingerprint {before}; "
                f"now {fingerprint}): the checkpoint has changed since. "
                f"Delete {checkpoint}.*.safetensors there to capture all of it again."
            )
        self._manifest = replace(self._manifest, weights={**self._manifest.weights, checkpoint: fingerprint})

    def write(
        self,
        shard: Shard,
        values: Float[Tensor, "row layer d_model"],
        offsets: Int[Tensor, " prompt_and_end"] | None = None,
    ) -> None:
        """Queue a shard; blocks while `WAITING` shards are queued. Do not change ``values`` afterwards.

        Raises:
            StorageError: if an earlier shard could not be written.
        """
        self.check()
        self._queue.put(_Job(shard, values, offsets))

    def flush(self) -> None:
        """Wait until all queued shards are on disk.

        Raises:
            StorageError: if a shard could not be written.
        """
        self._queue.join()
        self.check()

    def close(self) -> None:
        """Write all queued shards, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self.error is None:  # else only empty the queue, so that no call blocks on it
                    self._store(job)
            except BaseException as error:  # raised where the caller is
                self.error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _store(self, job: _Job) -> None:
        entry = write_shard(self._root / job.shard.file, job.values, self._manifest.dtype, job.offsets)
        manifest = replace(self._manifest, shards={**self._manifest.shards, job.shard.file: entry})
        manifest.write(self._root)
        self._manifest = manifest


def _continued(root: Path, wanted: Manifest) -> Manifest:
    """The wanted manifest with the shards that a folder holds; only checkpoints and splits may be new."""
    if not (root / MANIFEST).exists():
        return wanted
    found = Manifest.read(root)
    equal = ("component", "layers", "positions", "computed", "dtype", "shard_prompts")
    differing = [
        key
        for key in ("checkpoints", "probes")
        if not getattr(found, key).items() <= getattr(wanted, key).items()
    ]
    differing += [key for key in equal if getattr(found, key) != getattr(wanted, key)]
    if differing:
        described = "; ".join(
            f"{key}: {_short(getattr(found, key))} there, {_short(getattr(wanted, key))} asked for"
            for key in differing
        )
        raise ResultsError(
            f"{root} holds activations of another capture ({', '.join(differing)} differ); "
            f"use another folder or delete it. {described}."
        )
    return replace(wanted, weights=found.weights, shards=found.shards)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
