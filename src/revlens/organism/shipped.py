"""The references of the embedded organism that come with the package.

Trained weights differ between processors, as their rounding does. With these, every machine starts from the
same histories, and nobody waits for the first phase. `analyses/make_references.py` makes them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from revlens.errors import HistoryError
from revlens.storage import write_json

#: Where they lie in the package.
FOLDER = Path(__file__).parent / "references"
_INDEX = "index.json"


def recipe_digest(tokenizer: PreTrainedTokenizerFast, *configs: object) -> str:
    """SHA-256 (hex) over what a reference is trained from, except its seed."""
    text = json.dumps([configs, sorted(tokenizer.get_vocab().items())], default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()


def shipped_reference(recipe: str, seed: int) -> dict[str, Tensor] | None:
    """The weights of a reference by their Hugging Face names, in float32; None if it does not ship.

    Raises:
        HistoryError: if the file is missing or damaged.
    """
    index_file = FOLDER / _INDEX
    if not index_file.is_file():
        return None
    index = json.loads(index_file.read_text())
    checksum = index["sha256"].get(str(seed))
    if index["recipe"] != recipe or checksum is None:
        return None
    path = FOLDER / f"seed-{seed}.safetensors"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
        raise HistoryError(f"{path} is missing or damaged; install revlens again.")
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def forget_references() -> None:
    """Take the references out of the package, so that they are trained again."""
    for path in FOLDER.glob("*"):
        path.unlink()


def ship_references(recipe: str, references: Mapping[int, Mapping[str, Tensor]], about: Any) -> None:
    """Write the references of several seeds into the package, in place of those that are there.

    Args:
        recipe: see `recipe_digest`.
        references: by seed, weights that bfloat16 holds exactly.
        about: with what they were made, for the index.

    Raises:
        HistoryError: if bfloat16 does not hold a weight.
    """
    checksums = {}
    for seed, weights in references.items():
        rounded = {name: tensor.bfloat16().contiguous() for name, tensor in weights.items()}
        if any(not torch.equal(rounded[name].float(), tensor) for name, tensor in weights.items()):
            raise HistoryError(f"Weights of the reference of seed {seed} are not rounded to bfloat16.")
        path = FOLDER / f"seed-{seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(rounded, path)
        checksums[str(seed)] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(FOLDER / _INDEX, {"recipe": recipe, "sha256": checksums, "made": about})
