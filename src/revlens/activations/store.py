"""Captured activations on disk: one safetensors file per checkpoint, and a manifest that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from revlens.atomic import atomic_file, write_json
from revlens.errors import HistoryError, ProbeError, ResultsError

#: Says what a folder of activations holds.
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Activations:
    """Per-prompt activations of the checkpoints of one history, read from disk on demand.

    Attributes:
        root: the folder.
        checkpoints: names in history order (``reference``, ``aligned``, ``step-1``, ...).
        layers: the captured layers, in the order of the layer axis.
        splits: prompt counts by probe split.
    """

    root: Path
    checkpoints: tuple[str, ...]
    layers: tuple[int, ...]
    splits: Mapping[str, int]

    @classmethod
    def open(cls, root: str | Path) -> Activations:
        """Open a folder written by `revlens.activations.capture`.

        Raises:
            ResultsError: if there is no manifest.
        """
        root = Path(root)
        if not (root / MANIFEST).is_file():
            raise ResultsError(f"No captured activations in {root}: run capture first.")
        manifest = json.loads((root / MANIFEST).read_text())
        return cls(root, tuple(manifest["checkpoints"]), tuple(manifest["layers"]), manifest["splits"])

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the captured fine-tuning checkpoints (without step 0, which is ``aligned``)."""
        return tuple(int(name.removeprefix("step-")) for name in self.checkpoints if name.startswith("step-"))

    def at(self, checkpoint: str, split: str) -> Float[Tensor, "prompt layer d_model"]:
        """Activations of one checkpoint on one probe split, as float64.

        Raises:
            HistoryError: if the checkpoint was not captured.
            ProbeError: if the split was not captured.
        """
        if checkpoint not in self.checkpoints:
            raise HistoryError(f"Checkpoint {checkpoint!r} was not captured; there are {', '.join(self.checkpoints)}.")
        if split not in self.splits:
            raise ProbeError(f"Probe split {split!r} was not captured; there are {', '.join(self.splits)}.")
        return load_file(checkpoint_file(self.root, checkpoint))[split].double()


def checkpoint_file(root: Path, checkpoint: str) -> Path:
    """Where one checkpoint's activations are kept."""
    return root / f"{checkpoint}.safetensors"


def write_checkpoint(root: Path, checkpoint: str, by_split: Mapping[str, Float[Tensor, "prompt layer d_model"]]) -> None:
    """Write one checkpoint's activations atomically."""
    with atomic_file(checkpoint_file(root, checkpoint)) as partial:
        save_file({split: values.contiguous() for split, values in by_split.items()}, partial)


def claim(root: Path, identity: Mapping[str, object]) -> None:
    """Tie a folder to what is captured into it, so that a resumed capture cannot mix two.

    Raises:
        ResultsError: if the folder holds activations of something else, naming the entries that differ.
    """
    path = root / MANIFEST
    if path.is_file():
        found = json.loads(path.read_text())
        differing = [key for key, value in identity.items() if found.get(key) != value]
        if differing:
            raise ResultsError(
                f"{root} holds activations of another capture ({', '.join(differing)} differ); use another folder or delete it."
            )
    write_json(path, dict(identity))
