"""A state dict in memory as a source."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError
from revlens.history.source import Source, default_device, language_config, vocabulary_of
from revlens.history.wrap import wrap


@dataclass(frozen=True, eq=False)
class StateDict:
    """A state dict of a Hugging Face model.

    Attributes:
        model: says the architecture; it is copied, not changed. No model that a bridge has wrapped.
        fast_tokenizer: the tokenizer.
        weights: tensors by the model's names. They must not change afterwards: clone what is trained on.

    Raises:
        HistoryError: if names or shapes are not the model's, or tied weights differ.
    """

    model: PreTrainedModel = field(repr=False)
    fast_tokenizer: PreTrainedTokenizerBase = field(repr=False)
    weights: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        expected = self.model.state_dict()
        names = _tied_names(self.model)
        missing = [name for name in expected if not names.get(name, {name}) & self.weights.keys()]
        unexpected = [name for name in self.weights if name not in expected]
        if missing or unexpected:
            raise HistoryError(
                f"The state dict does not fit {type(self.model).__name__}: "
                f"missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}."
            )
        for name, tensor in self.weights.items():
            if tensor.shape != expected[name].shape:
                raise HistoryError(
                    f"{name} has shape {tuple(tensor.shape)}, "
                    f"but {tuple(expected[name].shape)} in {type(self.model).__name__}."
                )
            twins = [twin for twin in names.get(name, ()) if twin in self.weights]
            if any(not torch.equal(self.weights[twin], tensor) for twin in twins):
                raise HistoryError(
                    f"{', '.join(sorted(twins))} are one tied weight in {type(self.model).__name__}, "
                    "but differ in the state dict."
                )

    def identity(self) -> str:
        """SHA-256 over names, shapes, dtypes and values."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.weights):
            tensor = self.weights[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        tokenizer = json.dumps([self.vocabulary(), self.chat_template()])
        return hashlib.sha256(f"{self.identity()} {tokenizer}".encode()).hexdigest()

    def config(self) -> Mapping[str, Any]:
        """See `Source.config`."""
        return language_config(self.model.config.to_dict())

    def vocabulary(self) -> tuple[Any, Any]:
        """See `Source.vocabulary`."""
        return vocabulary_of(self.fast_tokenizer)

    def chat_template(self) -> Any:
        """See `Source.chat_template`."""
        return self.fast_tokenizer.chat_template

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Source.tokenizer`."""
        tokenizer = copy.deepcopy(self.fast_tokenizer)
        # Without this, boot_transformers loads it again, by its name and from the hub.
        tokenizer.init_kwargs["add_bos_token"] = True
        return tokenizer

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """See `Source.module`."""
        model = copy.deepcopy(self.model).to(dtype=dtype)  # type: ignore[call-arg]  # transformers wraps it
        model.load_state_dict(dict(self.weights), strict=False)  # names were checked
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.name_or_path = ""  # an adapter trained on it must not name the files that ``model`` came from
        model.set_attn_implementation("eager")
        return model.to(default_device()).eval()

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """See `Source.boot`."""
        return wrap(self.module(dtype), (reader or self).tokenizer())


def _tied_names(model: PreTrainedModel) -> dict[str, set[str]]:
    """For each parameter that has several names, all of them."""
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return {name: names for names in groups.values() if len(names) > 1 for name in names}
