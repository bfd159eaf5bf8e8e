"""One checkpoint: a source of weights with its place in a history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from revlens.chat_templates import pin_template
from revlens.context import Context, context_of
from revlens.errors import HistoryError
from revlens.history.adapter import Adapter, local_source
from revlens.history.directory import Directory
from revlens.history.source import Source
from revlens.history.wrap import write_no_bos

Phase = Literal["reference", "aligned", "finetune"]


@dataclass(frozen=True)
class Checkpoint:
    """A source of weights with its place in the history.

    Attributes:
        source: where the weights come from.
        phase: ``reference`` (earlier, permissive), ``aligned`` (step 0) or ``finetune``.
        step: optimizer updates since ``aligned``; None for the reference.
        dtype: in which the weights are loaded.
        reader: the source whose tokenizer and chat template encode prompts; its own if None. A history sets
            aligned's.
        template_kwargs: arguments of the chat template, see `revlens.chat_templates.pin_template`.
        template_date: the date that the chat template reads, such as 2026-01-31; None leaves the clock.
    """

    source: Source
    phase: Phase
    step: int | None = None
    dtype: torch.dtype = torch.float32
    reader: Source | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    template_date: str | None = None

    @property
    def name(self) -> str:
        """``reference``, ``aligned`` or ``step-N``."""
        return f"step-{self.step}" if self.phase == "finetune" else self.phase

    @property
    def path(self) -> Path:
        """The directory of a local checkpoint or adapter.

        Raises:
            HistoryError: if it comes from elsewhere.
        """
        if isinstance(self.source, Directory | Adapter):
            return self.source.path
        raise HistoryError(f"{self.name} is no local directory, but {self.source.identity()}.")

    def fingerprint(self) -> str:
        """See `Source.fingerprint`; reads every file of a local checkpoint."""
        return self.source.fingerprint()

    def load(self) -> TransformerBridge:
        """A new bridge at every call, in evaluation mode, on accelerate's default device."""
        return self.with_template(self.source.boot(self.dtype, self.reader))

    def module(self) -> PreTrainedModel:
        """The Hugging Face model itself, new at every call: it replies faster than a bridge, without hooks.

        Its tokenizer is that of `tokenizer`.
        """
        return self.source.module(self.dtype)

    def with_template(self, bridge: TransformerBridge) -> TransformerBridge:
        """The bridge itself, whose tokenizer now renders prompts as this checkpoint's does.

        Saved with the bridge is the tokenizer as it was given.
        """
        pin_template(bridge.tokenizer, template_kwargs=self.template_kwargs, date=self.template_date)
        return bridge

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that encodes its prompts, without the weights."""
        tokenizer = (self.reader or self.source).tokenizer()
        if tokenizer.bos_token is None:
            write_no_bos(tokenizer)
        pin_template(tokenizer, template_kwargs=self.template_kwargs, date=self.template_date)
        return tokenizer

    def context(self) -> Context | None:
        """The longest text of the model, found without its weights; None if transformers does not know it."""
        settings = dict(self.source.config())
        try:
            config = AutoConfig.for_model(settings.pop("model_type"), **settings)
            with torch.device("meta"):
                return context_of(AutoModelForCausalLM.from_config(config))
        except Exception:  # each family checks its settings in its own way; loading says what is wrong
            return None


def boot(
    where: Source | Path,
    dtype: torch.dtype = torch.float32,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    template_date: str | None = None,
) -> TransformerBridge:
    """A bridge of a source or of local files, in evaluation mode, with its own tokenizer.

    Args:
        where: a source, a directory with a model or an adapter, or a .gguf file.
        dtype: in which the weights are loaded.
        template_kwargs: arguments of the chat template, see `revlens.chat_templates.pin_template`.
        template_date: the date that the chat template reads; None leaves the clock.

    Raises:
        HistoryError: if there is no model, or only pickled weights (revlens never unpickles).
        ConfigError: see `revlens.chat_templates.pin_template`.
    """
    source = local_source(where) if isinstance(where, Path) else where
    bridge = source.boot(dtype)
    pin_template(bridge.tokenizer, template_kwargs=template_kwargs, date=template_date)
    return bridge
