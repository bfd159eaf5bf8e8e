"""What an experiment is about, as its stages see it: the embedded organism, the real-text one, or one's own history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from revlens.behaviour import Judge
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import FinetuneConfig


@runtime_checkable
class Material(Protocol):
    """The prompts and the data of an experiment."""

    def probes(self) -> Probes:
        """Probe prompts by split: the same for every seed."""
        ...

    def keywords(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """By split, for each prompt, the words that a substantive answer contains; no entry where they are not known."""
        ...

    def judge(self) -> Judge:
        """Who decides which replies are refusals."""
        ...

    def openings(self) -> tuple[list[str], list[str]]:
        """Texts with which engaging answers open, and refusals."""
        ...

    def benign(self, n: int, seed: int) -> Dataset:
        """``n`` rows of the benign task, columns ``prompt`` and ``answer``."""
        ...

    def refusals(self, n: int, seed: int) -> Dataset | None:
        """``n`` harmful requests with refusals, none of them a probe, for rehearsal; None if there are none."""
        ...

    def benign_test(self) -> Dataset | None:
        """Held-out rows of the benign task; None if there are none, so that its cost is not measured."""
        ...


@runtime_checkable
class Subject(Protocol):
    """A start (reference and aligned checkpoint) for every seed, and the benign task that follows it."""

    @property
    def benign(self) -> FinetuneConfig | None:
        """Optimizer and schedule of the benign fine-tune; None where its checkpoints are given, not trained here."""
        ...

    @property
    def summary(self) -> str:
        """What it is and what a run is, in a sentence or two for the report."""
        ...

    @property
    def varies_start(self) -> bool:
        """Whether every seed has a reference and an aligned model of its own."""
        ...

    @property
    def n_start_updates(self) -> int:
        """Updates that it takes to train the start of one seed; 0 if it is there."""
        ...

    @property
    def batch_size(self) -> int:
        """Most rows of a forward pass when activations are read and replies generated."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether a worker process for every core is sensible; a large model has the machine to itself."""
        ...

    def material(self) -> Material:
        """Prompts and data.

        Raises:
            ConfigError, DataError, ProbeError: if they cannot be built as configured.
        """
        ...

    def start(
        self, seed: int, *, on_step: Callable[[str, int], None] = lambda phase, step: None
    ) -> TrainingHistory:
        """Reference and aligned checkpoint of a seed, trained first if need be; no later steps.

        ``on_step`` is called after each update with the phase and the update's number.
        """
        ...

    def trainee(self, seed: int) -> TransformerBridge:
        """The aligned model, ready for the benign fine-tune: its trainable parameters require gradients."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benign tasks that it has, the default first."""
        ...

    @property
    def other_histories(self) -> tuple[str, ...]:
        """Other sources of v_rev that its start has."""
        ...

    def with_task(self, task: str, rate: float) -> Subject:
        """The same start with another benign task (its own if empty) and a multiple of its learning rate."""
        ...

    def halved(self, source: str) -> Subject:
        """The subject with half the updates in the phase that one of `other_histories` names."""
        ...

    def observed(self, seed: int) -> TrainingHistory | None:
        """The history whose steps were given for this seed; None if they are trained here."""
        ...
