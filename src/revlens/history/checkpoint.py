"""One checkpoint on disk: loading it as a bridge, and saving a bridge as Hugging Face files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate import init_empty_weights
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from revlens.atomic import atomic_directory
from revlens.errors import HistoryError

Phase = Literal["reference", "aligned", "finetune"]

# What decides whether two checkpoints' residual streams can be compared, in any family's config.json.
_SHAPE_KEYS = ("model_type", "hidden_size", "n_embd", "num_hidden_layers", "n_layer", "vocab_size")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint directory with its place in the history.

    Attributes:
        path: directory with config.json, safetensors weights and tokenizer files.
        phase: ``reference`` (earlier, permissive), ``aligned`` (step 0) or ``finetune``.
        step: optimizer updates since ``aligned``; None for the reference.
    """

    path: Path
    phase: Phase
    step: int | None = None

    @property
    def name(self) -> str:
        """``reference``, ``aligned`` or ``step-N``."""
        return f"step-{self.step}" if self.phase == "finetune" else self.phase

    def shape(self) -> dict[str, object]:
        """The entries of config.json that fix the residual stream's shape.

        Raises:
            HistoryError: if there is no readable config.json.
        """
        try:
            config = json.loads((self.path / "config.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise HistoryError(f"{self.name}: {self.path} is no Hugging Face checkpoint directory ({error}).") from error
        return {key: config[key] for key in _SHAPE_KEYS if key in config}

    @property
    def n_layers(self) -> int:
        """Number of blocks.

        Raises:
            HistoryError: if config.json does not say.
        """
        shape = self.shape()
        for key in ("num_hidden_layers", "n_layer"):
            if isinstance(n_layers := shape.get(key), int):
                return n_layers
        raise HistoryError(f"{self.path / 'config.json'} names no number of layers (num_hidden_layers or n_layer).")

    def vocabulary(self) -> object:
        """The tokenizer's model and added tokens, as stored: equal for equal tokenizers.

        Raises:
            HistoryError: if tokenizer.json is missing or unreadable.
        """
        try:
            tokenizer = json.loads((self.path / "tokenizer.json").read_text())
            return tokenizer["model"], tokenizer["added_tokens"]
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise HistoryError(
                f"{self.name}: no usable tokenizer.json in {self.path} ({error!r}); save the tokenizer beside the weights."
            ) from error

    def load(self) -> TransformerBridge:
        """Boot the checkpoint, in evaluation mode."""
        return boot(self.path)


def boot(path: Path) -> TransformerBridge:
    """Boot a local Hugging Face directory as a bridge, offline and in evaluation mode.

    Raises:
        HistoryError: if the directory holds no model, or only pickled weights (revlens never unpickles).
    """
    if not (path / "config.json").is_file():
        raise HistoryError(f"{path} is no Hugging Face checkpoint directory: it has no config.json.")
    if not any(path.glob("*.safetensors")):
        raise HistoryError(f"{path} has no .safetensors weights; revlens does not read pickled ones. Re-save it with safetensors.")
    bridge = TransformerBridge.boot_transformers(str(path))
    bridge.eval()
    return bridge


def save(bridge: TransformerBridge, path: Path) -> None:
    """Save a bridge's weights and tokenizer as a Hugging Face directory. It appears whole or not at all."""
    model = bridge.original_model
    assert isinstance(model, PreTrainedModel)
    with init_empty_weights():
        skeleton = type(model)(model.config)
    # A bridge holds each weight under several names; the skeleton knows those that Hugging Face reads.
    clean = {name.replace("._original_component", ""): tensor for name, tensor in model.state_dict().items()}
    with atomic_directory(path) as partial:
        skeleton.save_pretrained(partial, state_dict={name: clean[name] for name in skeleton.state_dict()})
        bridge.tokenizer.save_pretrained(partial)
