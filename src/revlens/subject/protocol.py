"""What an experiment sees of its subject: the embedded organism, the real-text one, or a user's history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

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
        """By split and prompt, the words of a substantive answer; splits without known words are left out."""
        ...

    def strata(self) -> Mapping[str, Sequence[str]]:
        """By split and prompt, the type of request; splits whose types are not known are left out."""
        ...

    def judge(self) -> Judge:
        """The judge of replies."""
        ...

    def openings(self) -> tuple[list[str], list[str]]:
        """Openings of engaging answers, and of refusals."""
        ...

    def benign(self, n: int, seed: int) -> Dataset:
        """``n`` rows of the benign task, or all if there are fewer; columns ``prompt`` and ``answer``."""
        ...

    def refusals(self, n: int, seed: int) -> Dataset | None:
        """``n`` harmful requests with refusals for rehearsal, none of them a probe; None without any."""
        ...

    def benign_test(self) -> Dataset | None:
        """Held-out rows of the benign task, for its loss; None if there are none."""
        ...


@runtime_checkable
class Subject(Protocol):
    """A start (reference and aligned checkpoint) for every seed, and the benign task that follows it."""

    @property
    def benign(self) -> FinetuneConfig | None:
        """Optimizer and schedule of the benign fine-tune; None if its checkpoints are given."""
        ...

    @property
    def summary(self) -> str:
        """What it is and what a run is, in a sentence or two for the report."""
        ...

    @property
    def caveat(self) -> str | None:
        """Why its numbers are no result about reversion, for the report; None if they are one."""
        ...

    @property
    def varies_start(self) -> bool:
        """Whether every seed has a reference and an aligned model of its own."""
        ...

    @property
    def n_start_updates(self) -> int:
        """Updates that train the start of one seed; 0 if it is given."""
        ...

    @property
    def batch_size(self) -> int:
        """Most rows of a forward pass when activations are read and replies generated."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether every core can run a worker process; a large model has the machine to itself."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benign tasks that it can be fine-tuned on, its own first; none if its checkpoints are given."""
        ...

    @property
    def other_histories(self) -> tuple[str, ...]:
        """Sources from which a study may take v_rev instead of the seed's own checkpoints.

        ``other-seed`` is the v_rev of another seed; `halved` gives the subjects of the others.
        """
        ...

    def with_task(self, task: str, rate: float = 1.0) -> Subject:
        """The same start with another benign task, and ``rate`` times the learning rate.

        Raises:
            ConfigError: if ``task`` is not one of `tasks`.
        """
        ...

    def halved(self, source: str) -> Subject:
        """The subject with half the updates in the phase that the source of v_rev is about.

        Raises:
            ConfigError: if ``source`` is not one of `other_histories`, or not about a phase.
        """
        ...

    def describe(self) -> str | None:
        """Every given checkpoint as it was understood; None if all of them are trained here."""
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
        """Reference and aligned checkpoint of a seed, trained first if they are not cached; no later steps.

        ``on_step`` is called after each update with the phase and the update's number.
        """
        ...

    def start_key(self, seed: int) -> str:
        """On what the start depends beyond the subject's configuration and the code that trains: answers of
        a model, or verdicts of a judge, to train on. Empty if on nothing.
        """
        ...

    def trainee(self, seed: int, phase: Literal["reference", "aligned"] = "aligned") -> TransformerBridge:
        """The model of a phase, ready for the benign fine-tune: what is trained requires gradients."""
        ...

    def observed(self, seed: int) -> TrainingHistory | None:
        """The given history of a seed, with its steps; None if the steps are trained here."""
        ...
