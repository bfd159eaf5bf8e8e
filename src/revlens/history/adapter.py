"""A LoRA adapter directory on a base source, unmerged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftType
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import FileError, HistoryError
from revlens.history.directory import Directory, digest_of
from revlens.history.folder_checks import check_links, check_unchanged
from revlens.history.gguf import SUFFIX, Gguf
from revlens.history.hub import Hub
from revlens.history.peft_layers import base_of, inject
from revlens.history.source import Source
from revlens.history.wrap import wrap
from revlens.storage import read_json

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
#: Settings with which peft imports a module, or unpickles a file, that the adapter names.
_RUN_CODE = ("megatron_config", "corda_config", "lora_ga_config")


@dataclass(frozen=True)
class Adapter:
    """A peft LoRA adapter on a base model, unmerged.

    Merging rounds to the base's dtype: in bfloat16, often by more than a few updates change.

    Attributes:
        path: directory with adapter_config.json and adapter_model.safetensors. Its tokenizer, if it has
            one, is used in place of the base's.
        base: the model that the adapter was trained on.

    Raises:
        HistoryError: if the adapter is pickled, is no LoRA, has peft run code, or names another base; by
            `module` and `boot`, if its weights do not fit the base.
    """

    path: Path
    base: Source

    def __post_init__(self) -> None:
        settings = _read_settings(self.path)
        if not (self.path / WEIGHTS_FILE).is_file():
            raise HistoryError(
                f"{self.path} has no {WEIGHTS_FILE}; revlens does not read pickled adapters "
                "(adapter_model.bin). Save it again with peft."
            )
        if settings.get("peft_type") != PeftType.LORA.value:
            raise HistoryError(
                f"{self.path} is an adapter of type {settings.get('peft_type')!r}; only LORA is supported. "
                "Merge it into its base."
            )
        given = [name for name in _RUN_CODE if settings.get(name)]
        if given:
            raise HistoryError(
                f"{self.path / CONFIG_FILE} has {given[0]}, with which peft reads code or pickled files; "
                "remove the entry."
            )
        check_links(self.path)
        _check_base(self.path, settings, self.base)

    def identity(self) -> str:
        """The adapter's absolute path, and its base's identity."""
        return f"{self.path.absolute()} on {self.base.identity()}"

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return hashlib.sha256(f"{digest_of(self.path)} {self.base.fingerprint()}".encode()).hexdigest()

    def config(self) -> Mapping[str, Any]:
        """See `Source.config`."""
        return self.base.config()

    def vocabulary(self) -> tuple[Any, Any]:
        """See `Source.vocabulary`."""
        return self._tokenizer_source.vocabulary()

    def chat_template(self) -> Any:
        """See `Source.chat_template`."""
        return self._tokenizer_source.chat_template()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Source.tokenizer`."""
        return self._tokenizer_source.tokenizer()

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """See `Source.module`. Adapter weights are float32, as peft loads them, and frozen."""
        return base_of(self._peft_model(dtype))

    def merged(self, dtype: torch.dtype) -> PreTrainedModel:
        """The base with the adapter added to its weights, which rounds the sum to ``dtype``."""
        merged = self._peft_model(dtype).merge_and_unload()
        assert isinstance(merged, PreTrainedModel)
        return merged

    def _peft_model(self, dtype: torch.dtype) -> PeftModel:
        check_unchanged(self.path)
        try:
            config = LoraConfig.from_pretrained(str(self.path))
            weights = load_file(self.path / WEIGHTS_FILE)
        except (TypeError, ValueError, OSError, SafetensorError) as error:
            raise HistoryError(
                f"The adapter in {self.path} cannot be read ({error}); save it again with peft."
            ) from error
        assert isinstance(config, LoraConfig)
        config.inference_mode = True
        peft_model = inject(self.base.module(dtype), config)
        try:
            missing_keys, unexpected = set_peft_model_state_dict(peft_model, dict(weights))  # type: ignore[attr-defined]
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()  # torch lists them all below a headline
            raise HistoryError(
                f"The weights of {self.path} do not fit {self.base.identity()}: {first}"
            ) from error
        # The base's weights are in no adapter, and so not missing.
        missing = [name for name in missing_keys if "lora_" in name or "modules_to_save" in name]
        if missing or unexpected:
            raise HistoryError(
                f"{self.path} does not fit {self.base.identity()}: {len(missing)} weights are missing and "
                f"{len(unexpected)} have no place there, the first of them {[*missing, *unexpected][0]}."
            )
        return peft_model

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """See `Source.boot`."""
        return wrap(self.module(dtype), (reader or self).tokenizer())

    @property
    def _tokenizer_source(self) -> Source:
        return Directory(self.path) if (self.path / "tokenizer.json").is_file() else self.base


def is_adapter(path: Path) -> bool:
    """Whether a directory holds a peft adapter."""
    return os.path.isfile(path / CONFIG_FILE)  # no error on a name that is too long


def local_source(path: Path, base: Source | None = None) -> Source:
    """The model in a directory, or the adapter in it on ``base`` (if None, on the base that it names).

    A file whose name ends in .gguf is a source as well.

    Raises:
        HistoryError: see `Adapter`; and if an adapter names no base.
    """
    if not is_adapter(path):
        return Gguf(path) if path.suffix == SUFFIX and not path.is_dir() else Directory(path)
    if base is None:
        name = _read_settings(path).get("base_model_name_or_path")
        if not name:
            raise HistoryError(f"{path / CONFIG_FILE} names no base model; give it: Adapter(path, base).")
        base = (
            Directory(Path(name))
            if os.path.isdir(name)
            else Hub(name, _read_settings(path).get("revision") or "main")
        )
    return Adapter(path, base)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = read_json(path / CONFIG_FILE)
    except FileError as error:
        raise HistoryError(
            f"{path} is no adapter directory: it has no {CONFIG_FILE} that can be read ({error})."
        ) from error
    if not isinstance(settings, dict):
        raise HistoryError(
            f"{path / CONFIG_FILE} must hold a table of settings; save the adapter again with peft."
        )
    wrong = [
        name
        for name in ("base_model_name_or_path", "revision")
        if not isinstance(settings.get(name), str | None)
    ]
    if wrong:
        raise HistoryError(f"{wrong[0]} = {settings[wrong[0]]!r} in {path / CONFIG_FILE} must be text.")
    return settings


def _check_base(path: Path, settings: Mapping[str, Any], base: Source) -> None:
    """Compare names where that is possible: of two repositories at revisions, or two folders that exist."""
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if name is None:
        return
    if isinstance(base, Hub):
        is_local = Path(name).exists() or name.count("/") != 1
        fits = is_local or (
            name == base.repo and (revision in (None, base.revision) or revision == base.commit)
        )
    elif isinstance(base, Directory):
        fits = not Path(name).is_dir() or Path(name).samefile(base.path)
    else:
        return
    if not fits:
        trained_on = name if revision is None else f"{name} at {revision}"
        raise HistoryError(
            f"The adapter {path} was trained on {trained_on}, not on {base}. "
            f"Give that base, or correct base_model_name_or_path and revision in its {CONFIG_FILE}."
        )
