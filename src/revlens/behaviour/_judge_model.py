"""A judge's model from a local Hugging Face directory: safetensors only, offline, in evaluation mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import ConfigError


def load_judge_model(
    auto_class: Any, path: str | Path, device: str | torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, by one of transformers' Auto classes and in its saved precision, with its tokenizer.

    Raises:
        ConfigError: if the directory holds no model, only pickled weights, or weights that do not fit the
            Auto class (a classifier without its head would judge at random).
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{path} is no Hugging Face model directory: it has no config.json.")
    if not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"{path} has no .safetensors weights; revlens does not read pickled ones. "
            "Re-save it with safetensors."
        )
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, loading = auto_class.from_pretrained(
            path, use_safetensors=True, dtype="auto", output_loading_info=True, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **local)
    except ValueError as error:
        raise ConfigError(
            f"{path} cannot be loaded by {auto_class.__name__}; "
            f"revlens runs no code from checkpoints ({error})."
        ) from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise ConfigError(
            f"{path} has no weights for {missing}; it is no checkpoint for {auto_class.__name__}."
        )
    return model.to(device).eval(), tokenizer
