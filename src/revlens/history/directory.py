"""A Hugging Face checkpoint directory as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import (
    determine_architecture_from_hf_config,
    get_hf_model_class_for_architecture,
)
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import FileError, HistoryError
from revlens.families import CONFIG_NAMES
from revlens.history.folder_checks import check_links, check_unchanged
from revlens.history.source import Source, default_device, language_config, vocabulary_of
from revlens.history.weight_files import tensor_names, weight_files
from revlens.history.wrap import wrap
from revlens.storage import read_json, read_text


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
            config = read_json(self.path / "config.json")
        except FileError as error:
            raise HistoryError(
                f"{self.path} is no Hugging Face checkpoint directory: "
                f"it has no config.json that can be read ({error})."
            ) from error
        if not isinstance(config, dict) or not isinstance(config.get("text_config", {}), dict | None):
            raise HistoryError(
                f"{self.path / 'config.json'} must hold a table of settings; save the checkpoint again."
            )
        check_links(self.path)
        return language_config(config)

    def vocabulary(self) -> tuple[Any, Any]:
        """See `Source.vocabulary`."""
        return vocabulary_of(self.tokenizer())

    def chat_template(self) -> Any:
        """See `Source.chat_template`; chat_template.jinja overrides tokenizer_config.json."""
        try:
            if (template := self.path / "chat_template.jinja").is_file():
                return read_text(template)
            settings = self.path / "tokenizer_config.json"
            stored = read_json(settings) if settings.is_file() else {}
        except FileError as error:
            raise HistoryError(f"The chat template in {self.path} cannot be read ({error}).") from error
        if not isinstance(stored, dict):
            raise HistoryError(f"{settings} must hold a table of settings; save the tokenizer again.")
        return stored.get("chat_template")

    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside the weights."""
        return any(
            (self.path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Source.tokenizer`."""
        if not self.has_tokenizer():
            raise HistoryError(f"{self.path} has no tokenizer; save it beside the weights.")
        check_links(self.path)
        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        except Exception as error:  # on bad files tokenizers raises bare Exceptions, transformers anything
            raise HistoryError(f"The tokenizer in {self.path} cannot be loaded: {error}") from error

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """See `Source.module`."""
        check_unchanged(self.path)
        self.check_weights()
        try:
            config = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        except Exception as error:  # each family's configuration checks its values in its own way
            raise HistoryError(
                f"{self.path} has no model type that transformers knows; "
                f"revlens runs no code from checkpoints ({error})."
            ) from error
        try:
            architecture = determine_architecture_from_hf_config(config)
            # Eager: the bridge's hooks see attention only there, and logits then match it to the last bit.
            model, loaded = get_hf_model_class_for_architecture(architecture).from_pretrained(
                self.path,
                dtype=dtype,
                attn_implementation="eager",
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # sizes that make no model, or that are not those of the weights
            raise HistoryError(
                f"The model in {self.path} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if loaded["missing_keys"]:  # transformers would go on with random numbers
            missing = sorted(loaded["missing_keys"])
            raise HistoryError(
                f"The weights in {self.path} lack {len(missing)} of the model's tensors, "
                f"the first of them {missing[0]}."
            )
        # An adapter that is trained on it finds its base by this name, from any working directory.
        model.name_or_path = self.identity()
        return model.to(default_device()).eval()

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """See `Source.boot`."""
        return wrap(self.module(dtype), (reader or self).tokenizer())

    def check_weights(self) -> None:
        """Check that the weights are there, whole, not pickled, and enough for the layers in config.json.

        Raises:
            HistoryError: if they are not, naming what is wrong.
        """
        config = self.config()
        if "transformers_weights" in config:  # read in place of the files that are checked and digested
            raise HistoryError(
                f"{self.path / 'config.json'} names weights of its own (transformers_weights); "
                "remove the entry."
            )
        n_tensors = len(tensor_names(weight_files(self.path)))
        for key in CONFIG_NAMES["layers"]:
            layers = config.get(key)
            if type(layers) is int and layers > n_tensors:  # to build so many could take for ever
                raise HistoryError(
                    f"{self.path / 'config.json'} says {key} = {layers}, "
                    f"but its weights are {n_tensors} tensors."
                )


def digest_of(folder: Path) -> str:
    """SHA-256 (hex) over the weights, configuration and tokenizer files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(
        path
        for pattern in ("*.safetensors", "*config.json", "tokenizer*", "*.jinja")
        for path in folder.glob(pattern)
    ):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
