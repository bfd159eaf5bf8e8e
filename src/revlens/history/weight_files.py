"""The safetensors files of a checkpoint folder, checked to be whole before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from revlens.errors import FileError, HistoryError
from revlens.storage import is_file_name, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_files(folder: Path) -> list[Path]:
    """The one file, or the shards that the index lists.

    Raises:
        HistoryError: if there are none, or pickled ones only, which are never read; if the index lists
            anything but files of this folder, or one of them is missing; if a single file lies beside its
            shards.
    """
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE]
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        there = f", only {', '.join(pickled)}" if pickled else ""
        raise HistoryError(
            f"{folder} has no {SINGLE}{there}; revlens does not read pickled weights, which can run code. "
            "Where you trust them, re-save them as safetensors: load them with transformers and call "
            "model.save_pretrained."
        )
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
    except (FileError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"{index} cannot be read ({error!r}); save the checkpoint again.") from error
    outside = [shard for shard in shards if not is_file_name(shard)]
    if outside or not shards:
        raise HistoryError(
            f"{index} must list files of its own folder, not {outside[0] if outside else 'none'!r}; "
            "save the checkpoint again."
        )
    if (folder / SINGLE).is_file() and SINGLE not in shards:  # transformers would read the single file
        raise HistoryError(
            f"{folder} has weights twice, in {SINGLE} and in the shards that {INDEX} lists; "
            "delete those that are not meant."
        )
    # Unlike Path.is_file, isfile takes names that are too long.
    missing = [shard for shard in shards if not os.path.isfile(folder / shard)]
    if missing:
        raise HistoryError(
            f"{folder} lacks {', '.join(missing)} of the {len(shards)} shards that {INDEX} lists; "
            "copy them there."
        )
    return [folder / shard for shard in shards]


def tensor_names(files: Sequence[Path]) -> list[str]:
    """Names of all tensors, from the files' headers, which are checked against the lengths of the files.

    Raises:
        HistoryError: if a file is no safetensors file, or is cut off.
    """
    names: list[str] = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names += file.keys()
        except (SafetensorError, OSError) as error:
            raise HistoryError(
                f"{path} is no whole safetensors file ({error}); copy or save it again."
            ) from error
    return names
