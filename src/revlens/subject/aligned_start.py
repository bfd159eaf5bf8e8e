"""The aligned model of one seed, trained from the reference and cached."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from revlens.history import Adapter, Checkpoint, save, wrap
from revlens.storage import cache_root, make_once
from revlens.subject.alignment_phase import AlignmentPhase
from revlens.subject.cache import cache_key
from revlens.subject.trainee import trainee
from revlens.training import finetune


@dataclass(frozen=True)
class AlignedStart:
    """The aligned model of one seed.

    Attributes:
        phase: how it is trained.
        reference: from what.
        rows: on what, as the seed drew them.
        seed: fixes the order of the rows and an adapter's initial weights.
    """

    phase: AlignmentPhase
    reference: Checkpoint
    rows: Dataset
    seed: int

    @property
    def key(self) -> str:
        """What the model depends on: the reference, the rows themselves, the recipe, the code that trains.

        Answers of the reference that a new version generates again in the same words leave the key as it is.
        """
        rows = hashlib.sha256(json.dumps([self.rows["prompt"][:], self.rows["answer"][:]]).encode())
        return cache_key(
            self.reference.fingerprint(),
            str(self.reference.dtype),
            dict(self.reference.template_kwargs),
            self.reference.template_date,
            self.phase.recipe,
            self.phase.lora,
            rows.hexdigest(),
            kind="start",
        )

    @property
    def folder(self) -> Path:
        """Where it is cached, as a Hugging Face directory."""
        return cache_root() / "alignment" / self.key / f"seed-{self.seed}" / "aligned"

    def train(self, on_step: Callable[[int], None] = lambda step: None) -> None:
        """Train the model, unless it is cached; wait if another process is training it.

        Args:
            on_step: called after each update with its number.

        Raises:
            ConfigError, HistoryError: see `trainee`.
            NonFiniteError: see `revlens.training.finetune`.
        """
        make_once(self.folder, lambda: self._train(on_step))

    def _train(self, on_step: Callable[[int], None]) -> None:
        model = trainee(self.reference, self.phase.lora, self.seed)
        finetune(
            model, self.rows, self.phase.recipe, seed=self.seed, on_step=lambda step, loss: on_step(step)
        )
        save(model if self.phase.lora is None else self._merged(model), self.folder)

    def _merged(self, model: TransformerBridge) -> TransformerBridge:
        """The reference with the trained adapter added to its weights."""
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as scratch:
            save(model, Path(scratch) / "adapter")
            merged = Adapter(Path(scratch) / "adapter", self.reference.source).merged(self.reference.dtype)
        return wrap(merged, model.tokenizer_as_given)
