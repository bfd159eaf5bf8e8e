"""One shard on disk: activations of some prompts in a safetensors file, each layer in one piece."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from revlens.activations.manifest import Entry
from revlens.errors import ResultsError
from revlens.storage import atomic_file

#: Where the rows of each prompt begin, and where the last one's end; only if prompts have several rows.
OFFSETS = "offsets"
_VALUES = "activations"
_CODES = {"float32": "F32", "bfloat16": "BF16"}
_REMEDY = "delete it and run capture again, which makes what is missing"


def write_shard(
    path: Path,
    values: Float[Tensor, "row layer d_model"],
    dtype: str,
    offsets: Int[Tensor, " prompt_and_end"] | None = None,
) -> Entry:
    """Write a shard atomically, flushed to the disk; the entry says what its file must be."""
    stored = values.detach().permute(1, 0, 2).to("cpu", getattr(torch, dtype)).contiguous()
    content = save({_VALUES: stored} | ({} if offsets is None else {OFFSETS: offsets}))
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    layer, row, d_model = stored.shape
    return Entry(len(content), hashlib.sha256(content).hexdigest(), (layer, row, d_model))


def check_shard(path: Path, entry: Entry) -> None:
    """Check that a file is, byte for byte, the shard that was written.

    Raises:
        ResultsError: if it is missing, no regular file, a link out of its folder, or of another size or
            content.
    """
    if not os.path.lexists(path):
        raise ResultsError(f"{path} is missing; run capture again, which makes what is missing.")
    target = Path(os.path.realpath(path))  # unlike Path.resolve, no error on links in a circle
    if not target.is_relative_to(os.path.realpath(path.parent)):
        raise ResultsError(f"{path} is a link to {target}, outside its folder; {_REMEDY}.")
    if not target.is_file():
        raise ResultsError(f"{path} is no regular file; {_REMEDY}.")
    size = path.stat().st_size
    if size != entry.n_bytes:
        raise ResultsError(f"{path} has {size} bytes and was written with {entry.n_bytes}; {_REMEDY}.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise ResultsError(
            f"{path} is not what was written: its SHA-256 is {found}, {entry.sha256} was expected; {_REMEDY}."
        )


def state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written again; None if there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def read_rows(
    path: Path, entry: Entry, dtype: str, layers: Sequence[int], pieces: Sequence[slice]
) -> Float[Tensor, "row layer d_model"]:
    """Pieces of the row axis, joined, at some places of the layer axis, as float64.

    The file is mapped, so that the rest of it is not read.

    Raises:
        ResultsError: if the file is no safetensors file or does not hold what its entry says.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.get_slice(_VALUES)
            if tuple(stored.get_shape()) != entry.shape or stored.get_dtype() != _CODES[dtype]:
                raise ResultsError(
                    f"{path} holds {stored.get_dtype()} of shape {stored.get_shape()}; its manifest says "
                    f"{_CODES[dtype]} of shape {list(entry.shape)}; {_REMEDY}."
                )
            return torch.stack(
                [torch.cat([stored[layer, rows].double() for rows in pieces]) for layer in layers], dim=1
            )
    except (SafetensorError, OSError) as error:
        raise ResultsError(f"{path} is no shard of activations ({error}); {_REMEDY}.") from error


def read_offsets(path: Path, entry: Entry, n_prompts: int) -> list[int]:
    """Where the rows of each prompt begin, and where the last one's end.

    Raises:
        ResultsError: if the file is no safetensors file, or its offsets do not fit its prompts and rows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            described = file.get_slice(OFFSETS)
            if described.get_shape() != [n_prompts + 1] or described.get_dtype() != "I64":
                raise ResultsError(
                    f"{path} has {OFFSETS} of shape {described.get_shape()}; {n_prompts + 1} numbers were "
                    f"expected; {_REMEDY}."
                )
            offsets: list[int] = file.get_tensor(OFFSETS).tolist()
    except (SafetensorError, OSError) as error:
        raise ResultsError(
            f"{path} is no shard of activations of all tokens ({error}); {_REMEDY}."
        ) from error
    if offsets[0] != 0 or offsets[-1] != entry.shape[1] or any(a >= b for a, b in pairwise(offsets)):
        raise ResultsError(
            f"{path} has {OFFSETS} that do not divide its {entry.shape[1]} rows among {n_prompts} prompts; "
            f"{_REMEDY}."
        )
    return offsets
