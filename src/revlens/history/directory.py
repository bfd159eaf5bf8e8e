"""A Hugging Face checkpoint directory as a source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config, get_hf_model_class_for_architecture
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError
from revlens.history.source import Source, default_device, language_config, vocabulary_of
from revlens.history.wrap import wrap


@dataclass(frozen=True)
class Directory:
    """A local directory with config.json, safetensors weights (sharded or not) and tokenizer files.

    Raises:
        HistoryError: by every method, if the file it reads is missing or unreadable.
    """

    path: Path

    def identity(self) -> str:
        """The absolute path."""
        return str(self.path.absolute())

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return digest_of(self.path)

    def config(self) -> Mapping[str, Any]:
        """See `Source.config`."""
        try:
            return language_config(json.loads((self.path / "config.json").read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise HistoryError(
                f"{self.path} is no Hugging Face checkpoint directory: it has no config.json that can be read ({error})."
            ) from error

    def vocabulary(self) -> tuple[Any, Any]:
        """See `Source.vocabulary`."""
        return vocabulary_of(self.tokenizer())

    def chat_template(self) -> Any:
        """See `Source.chat_template`; chat_template.jinja goes before tokenizer_config.json, as in transformers."""
        try:
            if (template := self.path / "chat_template.jinja").is_file():
                return template.read_text(encoding="utf-8")
            settings = self.path / "tokenizer_config.json"
            return json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
        except (OSError, json.JSONDecodeError) as error:
            raise HistoryError(f"The chat template in {self.path} cannot be read ({error}).") from error

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Source.tokenizer`."""
        if not any((self.path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise HistoryError(f"{self.path} has no tokenizer; save it beside the weights.")
        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise HistoryError(f"The tokenizer in {self.path} cannot be loaded: {error}") from error

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """See `Source.module`."""
        self.check_weights()
        try:
            config = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        except ValueError as error:
            raise HistoryError(
                f"{self.path} has no model type that transformers knows; revlens runs no code from checkpoints ({error})."
            ) from error
        architecture = determine_architecture_from_hf_config(config)
        # Eager: the bridge's hooks see attention only there, and logits then match it to the last bit.
        model = get_hf_model_class_for_architecture(architecture).from_pretrained(
            self.path, dtype=dtype, attn_implementation="eager", use_safetensors=True
        )
        model.name_or_path = self.identity()  # an adapter trained on it finds its base by this, from any working directory
        return model.to(default_device()).eval()

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """See `Source.boot`."""
        return wrap(self.module(dtype), (reader or self).tokenizer())

    def check_weights(self) -> None:
        """Check that the weights are there, whole and not pickled.

        Raises:
            HistoryError: if they are not, naming what is missing.
        """
        self.config()
        index = self.path / "model.safetensors.index.json"
        if not index.is_file():
            if (self.path / "model.safetensors").is_file():
                return
            raise HistoryError(
                f"{self.path} has no model.safetensors; revlens does not read pickled weights. "
                "Re-save them with model.save_pretrained, which writes safetensors."
            )
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise HistoryError(f"{index} cannot be read ({error!r}); save the checkpoint again.") from error
        missing = [shard for shard in shards if not (self.path / shard).is_file()]
        if missing:
            raise HistoryError(
                f"{self.path} lacks {', '.join(missing)} of the {len(shards)} shards that {index.name} lists; copy them there."
            )


def digest_of(folder: Path) -> str:
    """SHA-256 (hex) over the weights, configuration and tokenizer files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in ("*.safetensors", "*config.json", "tokenizer*", "*.jinja") for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
