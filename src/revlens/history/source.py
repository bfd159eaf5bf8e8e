"""What every source of a checkpoint's weights offers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError


@runtime_checkable
class Source(Protocol):
    """A model with its tokenizer, read on demand.

    All methods but `fingerprint`, `module` and `boot` read small files only: a history is checked before
    anything large is read.
    """

    def identity(self) -> str:
        """Which weights these are: a folder, a repository at a commit, or a hash of their content."""
        ...

    def fingerprint(self) -> str:
        """What the weights and the tokenizer hold, whatever their place: SHA-256 (hex), or a commit."""
        ...

    def config(self) -> Mapping[str, Any]:
        """The language model's config.json; of a multimodal model, its ``text_config``."""
        ...

    def vocabulary(self) -> tuple[Any, Any]:
        """See `vocabulary_of`."""
        ...

    def chat_template(self) -> Any:
        """The tokenizer's chat template as stored; None for a base model without one."""
        ...

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A new tokenizer at every call: a bridge changes the one that it gets."""
        ...

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """The Hugging Face model on accelerate's default device; every call makes a new one."""
        ...

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """A bridge in evaluation mode, on the same device, with the tokenizer of ``reader`` or its own."""
        ...


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model."""
    return config.get("text_config") or config


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
    """The tokenizer's model and added tokens, as tokenizer.json stores them: equal for equal tokenizers.

    Read from the loaded tokenizer, and not from the file: transformers adds special tokens that its class
    lacks.

    Raises:
        HistoryError: if it is not a fast tokenizer.
    """
    if not tokenizer.is_fast:
        raise HistoryError(f"{type(tokenizer).__name__} is no fast tokenizer; save it with a tokenizer.json.")
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    return stored["model"], stored["added_tokens"]


def default_device() -> torch.device:
    """The device that accelerate picks for this process."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")  # set by `accelerate launch --cpu`
    return PartialState(cpu=cpu).device
