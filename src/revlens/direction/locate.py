"""The reversion direction: from the aligned model back to the reference, per layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from revlens.activations import Activations
from revlens.errors import HistoryError, NonFiniteError, ResultsError
from revlens.storage import atomic_file

#: Others may have stored v_rev in half precision.
_NORM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class ReversionDirection:
    """v_rev per layer: the unit difference of mean activations, reference minus aligned.

    Source: Poppi & Lukas, arXiv 2606.28525.

    Attributes:
        unit: v_rev, of norm 1 at each layer.
        gap: ||a(reference) - a(aligned)|| at each layer, in activation units: the length of a full reversion.
        layers: layer indices, in the order of the layer axis.
        split: the probe split of the estimate; drift on the same split is biased (see `revlens.drift`).
        n_prompts: number of prompts in the means.
    """

    unit: Float[Tensor, "layer d_model"]
    gap: Float[Tensor, " layer"]
    layers: tuple[int, ...]
    split: str
    n_prompts: int

    @classmethod
    def fit(
        cls,
        reference: Float[Tensor, "prompt layer d_model"],
        aligned: Float[Tensor, "prompt layer d_model"],
        *,
        split: str,
        layers: tuple[int, ...] | None = None,
    ) -> ReversionDirection:
        """Estimate from the activations of the same prompts under both checkpoints.

        Args:
            reference: activations of the earlier, permissive checkpoint.
            aligned: activations of the checkpoint that fine-tuning starts from.
            split: a name for these prompts; `revlens.drift` refuses to measure on the same split.
            layers: indices of the layer axis; 0, 1, 2, ... if None.

        Raises:
            HistoryError: if ``layers`` does not match the layer axis.
            NonFiniteError: if an input is not finite, or reference and aligned do not differ at some layer.
        """
        difference = (reference.double() - aligned.double()).mean(0)
        layers = tuple(range(len(difference))) if layers is None else layers
        if len(layers) != len(difference):
            raise HistoryError(
                f"layers={layers} names {len(layers)} layers; the activations have {len(difference)}."
            )
        gap = difference.norm(dim=-1)
        if not difference.isfinite().all():
            raise NonFiniteError(f"Activations on split {split!r} hold NaN or infinity; v_rev is undefined.")
        if (gap == 0).any():
            layer = layers[int((gap == 0).nonzero()[0])]
            raise NonFiniteError(
                f"Reference and aligned have equal mean activations at layer {layer}; v_rev is undefined."
            )
        return cls(difference / gap[:, None], gap, layers, split, reference.shape[0])

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file.

        Raises:
            StorageError: if it cannot be written.
        """
        metadata = {
            "layers": ",".join(map(str, self.layers)),
            "split": self.split,
            "n_prompts": str(self.n_prompts),
        }
        with atomic_file(Path(path)) as partial:
            save_file({"unit": self.unit.contiguous(), "gap": self.gap.contiguous()}, partial, metadata)
            _sort_header(partial)

    @classmethod
    def load(cls, path: str | Path) -> ReversionDirection:
        """Read what `save` wrote.

        Raises:
            ResultsError: if the file is missing or cut off, or holds anything else.
        """
        if not Path(path).is_file():
            raise ResultsError(f"No v_rev at {path}: locate it first.")
        try:
            with safe_open(path, framework="pt") as file:
                meta, unit, gap = file.metadata(), file.get_tensor("unit"), file.get_tensor("gap")
            layers, n_prompts = (
                tuple(int(layer) for layer in meta["layers"].split(",")),
                int(meta["n_prompts"]),
            )
            split = meta["split"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(
                f"{path} holds no v_rev that can be read ({error!r}); locate it again."
            ) from error
        fits = (
            unit.ndim == 2
            and gap.shape == unit.shape[:1] == (len(layers),)
            and list(layers) == sorted(set(layers))
        )
        if not fits or not unit.is_floating_point() or not gap.is_floating_point() or n_prompts < 1:
            raise ResultsError(
                f"{path} holds no v_rev: its shapes and layers do not go together; locate it again."
            )
        if (
            not (gap > 0).all()
            or not gap.isfinite().all()
            or not ((unit.double().norm(dim=-1) - 1).abs() < _NORM_TOLERANCE).all()
        ):
            raise ResultsError(
                f"{path} holds no v_rev: it has a gap that is not positive or a vector that is not of length "
                "1; locate it again."
            )
        return cls(unit, gap, layers, split, n_prompts)


def _sort_header(path: Path) -> None:
    """Sort a file's metadata: safetensors writes it in random order, and equal runs give equal files."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    sorted_header = json.dumps(header, separators=(",", ":")).encode()
    sorted_header += b" " * (-len(sorted_header) % 8)  # tensors begin at a multiple of 8 bytes
    path.write_bytes(len(sorted_header).to_bytes(8, "little") + sorted_header + content[end:])


def locate(activations: Activations, split: str = "direction") -> ReversionDirection:
    """v_rev of a captured history, estimated on one probe split.

    Raises:
        HistoryError: if the reference or the aligned model was not captured.
        ProbeError: if the split was not captured.
        NonFiniteError: see `ReversionDirection.fit`.
    """
    return ReversionDirection.fit(
        activations.at("reference", split),
        activations.at("aligned", split),
        layers=activations.layers,
        split=split,
    )


def unit_vectors(vectors: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Scale to norm 1 along the last axis."""
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
