"""Captured activations on disk, read selectively: by checkpoint, split, layer, prompt and position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from revlens.activations.manifest import Entry, Manifest, Shard
from revlens.activations.shard_file import check_shard, read_offsets, read_rows, state_of
from revlens.errors import HistoryError, ProbeError, ResultsError, SiteError


@dataclass(frozen=True)
class Activations:
    """Activations of the checkpoints of one history, read from disk on demand.

    The files are mapped: a read takes the layers and prompts that it asks for and leaves the rest on disk.
    The first read of a shard checks the file against its SHA-256, in one pass over it; later reads do so only
    if the file has changed.

    Attributes:
        root: the folder.
        checkpoints: names in history order (``reference``, ``aligned``, ``step-1``, ...).
        layers: the captured layers, in the order of the layer axis.
        splits: prompt counts by probe split.
        manifest: what else the folder holds.
    """

    root: Path
    checkpoints: tuple[str, ...]
    layers: tuple[int, ...]
    splits: Mapping[str, int]
    manifest: Manifest = field(repr=False, compare=False)
    _checked: dict[Shard, tuple[int, int, int] | None] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    @classmethod
    def open(cls, root: str | Path) -> Activations:
        """Open a folder written by `revlens.activations.capture`.

        Raises:
            ResultsError: if there is no manifest, or it is damaged or of another version.
        """
        manifest = Manifest.read(Path(root))
        return cls(Path(root), tuple(manifest.checkpoints), manifest.layers, manifest.splits, manifest)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the captured fine-tuning checkpoints (without step 0, which is ``aligned``)."""
        return tuple(int(name.removeprefix("step-")) for name in self.checkpoints if name.startswith("step-"))

    def at(
        self,
        checkpoint: str,
        split: str,
        *,
        layers: Sequence[int] | None = None,
        prompts: slice | None = None,
        position: int | None = None,
    ) -> Float[Tensor, "prompt layer d_model"]:
        """Activations of one checkpoint on one probe split, as float64.

        Args:
            checkpoint: by name.
            split: by name.
            layers: which, in this order; all that were captured if None.
            prompts: which, as a slice without a step; all if None.
            position: token, counted from the prompt's end (-1 is the last), if all tokens are stored; the
                last if None.

        Raises:
            HistoryError: if the checkpoint was not captured.
            ProbeError: if the split was not captured, or a prompt has no token at the position.
            SiteError: if a layer or the position was not captured.
            ResultsError: if a shard is missing, or is not what was written.
        """
        return torch.cat(
            list(self.pieces(checkpoint, split, layers=layers, prompts=prompts, position=position))
        )

    def pieces(
        self,
        checkpoint: str,
        split: str,
        *,
        layers: Sequence[int] | None = None,
        prompts: slice | None = None,
        position: int | None = None,
    ) -> Iterator[Float[Tensor, "prompt layer d_model"]]:
        """What `at` gives, one shard after another, for what is larger than memory. Raises as `at` does."""
        places, at = self._places(layers), self._position(position)
        for shard, within in self._shards(checkpoint, split, prompts):
            yield self._read(shard, places, within, at)

    def tokens(
        self,
        checkpoint: str,
        split: str,
        *,
        layers: Sequence[int] | None = None,
        prompts: slice | None = None,
    ) -> Iterator[Float[Tensor, "pos layer d_model"]]:
        """Activations at every token of each prompt, one prompt after another. Raises as `at` does.

        Raises:
            SiteError: also if the store holds one vector per prompt.
        """
        if self.manifest.positions != "all":
            raise SiteError(
                f"{self.root} holds one vector per prompt ({self.manifest.positions!r}); "
                "capture with positions='all' for all tokens."
            )
        places = self._places(layers)
        for shard, within in self._shards(checkpoint, split, prompts):
            path, entry = self._file(shard)
            offsets = read_offsets(path, entry, len(self.manifest.prompts_of(shard)))
            for first, end in zip(
                offsets[within.start : within.stop], offsets[within.start + 1 : within.stop + 1], strict=True
            ):
                yield read_rows(path, entry, self.manifest.dtype, places, [slice(first, end)])

    def missing(self) -> list[Path]:
        """Shards that are not there, such as those that an unfinished capture has not written."""
        return [
            self.root / shard.file for shard in self._all() if not self.manifest.is_there(self.root, shard)
        ]

    def verify(self) -> None:
        """Check every shard, byte for byte.

        Raises:
            ResultsError: naming every shard that is missing, or is not what was written.
        """
        wrong = []
        for shard in self._all():
            try:
                self._check(shard)
            except ResultsError as error:
                wrong.append(str(error))
        if wrong:
            raise ResultsError(
                "\n".join([f"{len(wrong)} shards of {self.root} are not as they were written:", *wrong])
            )

    def _all(self) -> Iterator[Shard]:
        return (shard for checkpoint in self.checkpoints for shard in self.manifest.shards_of(checkpoint))

    def _check(self, shard: Shard) -> tuple[Path, Entry]:
        """A shard's file and entry, once they agree."""
        path = self.root / shard.file
        entry = self.manifest.shards.get(shard.file)
        if entry is None:
            raise ResultsError(f"{path} was not captured yet; run capture again, which goes on there.")
        check_shard(path, entry)
        self._checked[shard] = state_of(path)
        return path, entry

    def _file(self, shard: Shard) -> tuple[Path, Entry]:
        path = self.root / shard.file
        state = self._checked.get(shard)
        return (
            (path, self.manifest.shards[shard.file])
            if state is not None and state == state_of(path)
            else self._check(shard)
        )

    def _shards(self, checkpoint: str, split: str, prompts: slice | None) -> Iterator[tuple[Shard, range]]:
        """Shards of a split that hold chosen prompts, with the places of these in each."""
        if checkpoint not in self.checkpoints:
            raise HistoryError(
                f"Checkpoint {checkpoint!r} was not captured; there are {', '.join(self.checkpoints)}."
            )
        if split not in self.splits:
            raise ProbeError(f"Probe split {split!r} was not captured; there are {', '.join(self.splits)}.")
        chosen = range(self.splits[split])[prompts or slice(None)]
        if not chosen or chosen.step != 1:
            raise ProbeError(
                f"prompts={prompts} must take at least one of the {self.splits[split]} prompts of {split!r}, "
                "without a step."
            )
        size = self.manifest.shard_prompts
        for index in range(chosen.start // size, (chosen.stop - 1) // size + 1):
            shard = Shard(checkpoint, split, index)
            held = self.manifest.prompts_of(shard)
            yield (
                shard,
                range(max(chosen.start, held.start) - held.start, min(chosen.stop, held.stop) - held.start),
            )

    def _places(self, layers: Sequence[int] | None) -> list[int]:
        """Where layers lie on the layer axis."""
        unknown = [layer for layer in layers or () if layer not in self.layers]
        if unknown or (layers is not None and not layers):
            raise SiteError(
                f"layers={layers} were not all captured; there are {', '.join(map(str, self.layers))}."
            )
        return [self.layers.index(layer) for layer in (self.layers if layers is None else layers)]

    def _position(self, position: int | None) -> int:
        """The position to read, from the prompt's end; a store of one vector per prompt has one only."""
        there = {"last": (None, -1), "mean": (None,)}.get(self.manifest.positions)
        if (there is not None and position not in there) or (position is not None and position >= 0):
            raise SiteError(
                f"position={position} was not captured: {self.root} holds {self.manifest.positions!r}; "
                "capture with positions='all' to read others, "
                "and count them from the prompt's end: -1, -2, ..."
            )
        return -1 if position is None else position

    def _read(
        self, shard: Shard, places: list[int], within: range, position: int
    ) -> Float[Tensor, "prompt layer d_model"]:
        path, entry = self._file(shard)
        dtype = self.manifest.dtype
        if self.manifest.positions != "all":
            return read_rows(path, entry, dtype, places, [slice(within.start, within.stop)])
        offsets = read_offsets(path, entry, len(self.manifest.prompts_of(shard)))
        short = [i for i in within if offsets[i + 1] + position < offsets[i]]
        if short:
            prompt, n_tokens = (
                self.manifest.prompts_of(shard)[short[0]],
                offsets[short[0] + 1] - offsets[short[0]],
            )
            raise ProbeError(
                f"position={position} does not exist in prompt {prompt} of {shard.split!r}, "
                f"which has {n_tokens} tokens."
            )
        rows = [offsets[i + 1] + position for i in within]
        return read_rows(path, entry, dtype, places, [slice(row, row + 1) for row in rows])
