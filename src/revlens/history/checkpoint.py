"""One checkpoint: a source of weights with its place in a history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import HistoryError
from revlens.history.adapter import Adapter, local_source
from revlens.history.directory import Directory
from revlens.history.source import Source

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
    """

    source: Source
    phase: Phase
    step: int | None = None
    dtype: torch.dtype = torch.float32
    reader: Source | None = None

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
        return self.source.boot(self.dtype, self.reader)


def boot(where: Source | Path, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A bridge of a source or of a local directory, in evaluation mode, with its own tokenizer.

    Raises:
        HistoryError: if there is no model, or only pickled weights (revlens never unpickles).
    """
    source = local_source(where) if isinstance(where, Path) else where
    return source.boot(dtype)
