"""A training history: reference, aligned, and the steps of a fine-tune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from revlens.errors import HistoryError
from revlens.history.checkpoint import Checkpoint


@dataclass(frozen=True)
class TrainingHistory:
    """Ordered, phase-tagged checkpoints of one model.

    Attributes:
        reference: an earlier, permissive checkpoint.
        aligned: where the benign fine-tune starts (step 0).
        steps: fine-tuning checkpoints, by increasing step, from 1.

    Raises:
        HistoryError: if steps are not positive and increasing, or if checkpoints differ in architecture or tokenizer.
            Nothing is loaded for this: it reads config.json and tokenizer.json only.
    """

    reference: Checkpoint
    aligned: Checkpoint
    steps: tuple[Checkpoint, ...] = ()

    def __post_init__(self) -> None:
        numbers = [checkpoint.step for checkpoint in self.steps]
        if any(a is None or b is None or a >= b for a, b in zip([0, *numbers], numbers, strict=False)):
            raise HistoryError(f"Fine-tuning steps {numbers} must be positive and increasing.")
        shape, vocabulary = self.aligned.shape(), self.aligned.vocabulary()
        for checkpoint in (self.reference, *self.steps):
            if checkpoint.shape() != shape:
                raise HistoryError(f"{checkpoint.name} is {checkpoint.shape()}, but aligned is {shape}: not one model's history.")
            if checkpoint.vocabulary() != vocabulary:
                raise HistoryError(f"The tokenizer of {checkpoint.name} ({checkpoint.path}) differs from that of aligned.")

    @classmethod
    def from_dirs(cls, reference: str | Path, aligned: str | Path, steps: Mapping[int, str | Path] | None = None) -> TrainingHistory:
        """A history of local Hugging Face directories; ``steps`` maps optimizer updates to directories."""
        return cls(
            Checkpoint(Path(reference), "reference"),
            Checkpoint(Path(aligned), "aligned", 0),
            tuple(Checkpoint(Path(path), "finetune", step) for step, path in sorted((steps or {}).items())),
        )

    @property
    def n_layers(self) -> int:
        """Number of blocks, by the aligned model's config.json."""
        return self.aligned.n_layers

    def __iter__(self) -> Iterator[Checkpoint]:
        yield from (self.reference, self.aligned, *self.steps)

    def __getitem__(self, key: str | int) -> Checkpoint:
        """A checkpoint by name (``"reference"``, ``"aligned"``, ``"step-20"``) or by step number (0 is aligned).

        Raises:
            HistoryError: if there is none, listing those that exist.
        """
        for checkpoint in self:
            if key in (checkpoint.name, checkpoint.step):
                return checkpoint
        raise HistoryError(f"No checkpoint {key!r} in this history; it has {', '.join(c.name for c in self)}.")
