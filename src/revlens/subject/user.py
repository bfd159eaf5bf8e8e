"""A user's training history as the subject of an experiment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from revlens.context import check_context
from revlens.data import ChatSource
from revlens.errors import ConfigError
from revlens.history import Checkpoint, TrainingHistory, local_source
from revlens.prompts import ANSWERED, encode_prompts
from revlens.subject.aligned_start import AlignedStart
from revlens.subject.alignment_phase import AlignmentPhase
from revlens.subject.trainee import listed, trainee
from revlens.subject.user_material import ProbeFiles, UserMaterial
from revlens.training import FinetuneConfig, encode_examples


@dataclass(frozen=True)
class UserHistory:
    """A `Subject` of given checkpoints: reference, aligned, and either later steps or a benign task.

    All seeds share the start; they differ in the data order of the fine-tune, and in the initial weights of
    an adapter. With an alignment phase only the reference is given, and each seed trains an aligned model of
    its own: seeds are then replicas of the history.

    Attributes:
        root: folder where relative paths start.
        history: table of checkpoints without steps, see `TrainingHistory.from_table`; with an alignment phase
            without ``aligned``.
        probes: where probe prompts come from.
        engaging: openings of engaging answers.
        refusal: openings of refusals.
        runs: the steps of each observed run, as `TrainingHistory.from_table` takes them; empty if the steps
            are trained here.
        task: the benign task.
        n_task_test: held-out rows of the task.
        max_overlap: no row of the task may have this share of a probe prompt's wording.
        drop_overlaps: leave such rows out instead of raising an error.
        benign: optimizer and schedule; None if the steps are given.
        alignment: trains the aligned model from the reference; None if it is given.
        lora: settings of `peft.LoraConfig`; None trains every weight.
        judge: see `UserMaterial`.
        batch_size: most rows of a forward pass when activations are read and replies generated.
        digest: see `content_digest`; a resumed experiment must find the same content again.

    Raises:
        ConfigError: if steps are neither given nor trained, or both; if there is no task to train on; if the
            aligned model is given and trained.
    """

    root: str
    history: Mapping[str, Any]
    probes: ProbeFiles
    engaging: tuple[str, ...]
    refusal: tuple[str, ...]
    runs: tuple[Any, ...] = ()
    task: ChatSource | None = None
    n_task_test: int = 128
    max_overlap: float = 0.8
    drop_overlaps: bool = False
    benign: FinetuneConfig | None = None
    alignment: AlignmentPhase | None = None
    lora: Mapping[str, Any] | None = None
    judge: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    digest: str = ""

    def __post_init__(self) -> None:
        if bool(self.runs) == (self.benign is not None):
            raise ConfigError(
                "Either name the steps of the history, or say with [finetune] how they are to be trained."
            )
        if self.benign is not None and self.task is None:
            raise ConfigError("[finetune] needs a [task]: the benign data to train on.")
        if self.alignment is not None and ("aligned" in self.history or self.benign is None):
            raise ConfigError(
                "[alignment] trains the aligned model from the reference, so [history] names no aligned one "
                "and no steps, and [finetune] says how it is fine-tuned."
            )
        if self.lora is not None and self.benign is None:
            raise ConfigError("lora says how to train, but there is no [finetune] table.")
        for name in ("n_task_test", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def summary(self) -> str:
        """Where it comes from, and what a run is."""
        if self.benign is None:
            return (
                "A training history with given checkpoints; "
                "each run is an observed fine-tune of the same aligned model."
            )
        how = "in full" if self.lora is None else "with a LoRA adapter"
        if self.alignment is not None:
            return (
                f"A given reference; each run aligns it by {self.alignment.summary}, from a draw of its own, "
                f"and fine-tunes the result {how}."
            )
        return (
            f"Given reference and aligned checkpoints; each run fine-tunes the same aligned model {how}, "
            "in its own data order."
        )

    @property
    def caveat(self) -> None:
        """None: a user's history is what the experiment is about."""
        return

    @property
    def varies_start(self) -> bool:
        """Whether each seed trains an aligned model of its own; all share the reference."""
        return self.alignment is not None

    @property
    def n_start_updates(self) -> int:
        """Those of the alignment phase; 0 if the start is given."""
        return 0 if self.alignment is None else self.alignment.recipe.steps

    @property
    def parallel(self) -> bool:
        """False: the model may be large."""
        return False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The one task that the manifest names; none if the steps are given."""
        return () if self.benign is None else ("task",)

    @property
    def other_histories(self) -> tuple[str, ...]:
        """Empty: all seeds share the given checkpoints, and no phase before them is trained here."""
        return ()

    def with_task(self, task: str, rate: float = 1.0) -> UserHistory:
        """The same start and task with ``rate`` times the learning rate.

        Raises:
            ConfigError: if ``task`` is not one of `tasks`.
        """
        if self.benign is None or task not in self.tasks:
            raise ConfigError(
                f"Unknown benign task {task!r}; this history has {', '.join(self.tasks) or 'none'}."
            )
        return replace(self, benign=replace(self.benign, learning_rate=self.benign.learning_rate * rate))

    def halved(self, source: str) -> UserHistory:
        """Refuse: no phase whose updates could be halved is trained here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"A history of given checkpoints has no other v_rev {source!r}.")

    def material(self) -> UserMaterial:
        """Prompts, task and judge."""
        return UserMaterial(
            root=Path(self.root),
            probe_files=self.probes,
            engaging=self.engaging,
            refusal=self.refusal,
            task=self.task,
            n_task_test=self.n_task_test,
            max_overlap=self.max_overlap,
            drop_overlaps=self.drop_overlaps,
            judge_settings=self.judge,
            alignment=self.alignment,
        )

    def start(
        self, seed: int, *, on_step: Callable[[str, int], None] = lambda phase, step: None
    ) -> TrainingHistory:
        """Reference and aligned checkpoint of a seed; the aligned one is trained first if it is not given.

        Raises:
            HistoryError: see `TrainingHistory.from_table`.
            ConfigError: if too few rows of the alignment phase are there to draw from.
            DataError, ProbeError: see `revlens.subject.alignment_rows`.
        """
        given = self._given()
        if self.alignment is None:
            return given
        aligned = self._aligned(seed, given.reference)
        aligned.train(lambda step: on_step("alignment", step))
        return replace(given, aligned=Checkpoint(local_source(aligned.folder), "aligned", 0))

    def start_key(self, seed: int) -> str:
        """What trained the aligned model, if it is not given; a given one is in `content_digest`."""
        return "" if self.alignment is None else self._aligned(seed, self._given().reference).key

    def _given(self) -> TrainingHistory:
        """The checkpoints that are not trained here; where aligned is, the reference stands in for it."""
        table = self.history if self.alignment is None else _without_aligned(self.history)
        return TrainingHistory.from_table(table, Path(self.root))

    def _aligned(self, seed: int, reference: Checkpoint) -> AlignedStart:
        assert self.alignment is not None
        drawn = self.alignment.draw(*self._alignment_pools, seed)
        return AlignedStart(self.alignment, reference, drawn, seed)

    @cached_property  # every stage asks for the start, and so for them
    def _alignment_pools(self) -> tuple[Dataset, Dataset]:
        """Refusals, and ordinary exchanges with answers."""
        rows = self.material().alignment_rows
        assert rows is not None
        return rows.refusals, rows.ordinary(self._given().reference, self.batch_size)

    def observed(self, seed: int) -> TrainingHistory | None:
        """The given history of a run, counted from 0; None if the steps are trained here.

        Raises:
            ConfigError: if there is no such run.
            HistoryError: see `TrainingHistory.from_table`.
        """
        if not self.runs:
            return None
        if not 0 <= seed < len(self.runs):
            raise ConfigError(f"There is no run {seed}: the history has {len(self.runs)}, counted from 0.")
        return TrainingHistory.from_table({**self.history, "steps": listed(self.runs[seed])}, Path(self.root))

    def histories(self) -> list[TrainingHistory]:
        """Every observed run, or the start alone if the steps are trained here.

        Raises:
            HistoryError: see `TrainingHistory.from_table`.
        """
        return [history for run in range(len(self.runs)) if (history := self.observed(run))] or [
            self._given()
        ]

    def trainee(self, seed: int, phase: Literal["reference", "aligned"] = "aligned") -> TransformerBridge:
        """The model of a phase to be trained, in full or with fresh adapter weights.

        Raises:
            ConfigError: if every weight is to be trained in less than single precision, or peft does not take
                a setting of ``lora``.
            HistoryError: if it cannot be loaded, or the adapter does not fit it.
        """
        given = self._given() if phase == "reference" else self.start(seed)
        return trainee(getattr(given, phase), self.lora, seed)

    def describe(self) -> str:
        """Every checkpoint as it was understood: name, phase, step and where its weights come from."""
        if self.alignment is not None:
            reference = self._given().reference.source.identity()
            return (
                f"reference  reference  -  {reference}\n"
                f"aligned    aligned    0  trained here by each run: {self.alignment.summary}"
            )
        runs = [history.describe() for history in self.histories()]
        return runs[0] if len(runs) == 1 else "\n".join(f"run {run}\n{text}" for run, text in enumerate(runs))

    @property
    def reads_clock(self) -> bool:
        """Whether the chat template writes the date."""
        return self._given().reads_clock

    def check_context(self, reply_tokens: int) -> None:
        """Check, without reading weights, that prompts with their replies, rows of the task and those of the
        alignment phase fit the model, and that there are enough of the last.

        Args:
            reply_tokens: longest reply.

        Raises:
            ConfigError: see `revlens.context.check_context` and `AlignmentPhase.sizes`.
        """
        aligned = self._given().aligned
        context, tokenizer = aligned.context(), aligned.tokenizer()
        if context is None:
            return

        def check(prompts: Sequence[str], new_tokens: int, what: str) -> None:
            lengths = [len(row) for row in encode_prompts(tokenizer, prompts)]
            check_context(context, lengths, prompts, new_tokens=new_tokens, what=what)

        def check_rows(rows: Dataset, what: str) -> None:
            lengths = [len(e.prompt) + len(e.answer) for e in encode_examples(tokenizer, rows)]
            check_context(context, lengths, list(rows["prompt"]), what=what)

        material = self.material()
        for split, prompts in material.probes().splits.items():
            check(prompts, reply_tokens if split in ANSWERED else 0, f"Prompt of {split!r}")
        if self.task is not None:
            rows = self.task.read(self.root)
            check_rows(rows, "Row of the task")
        if (test := material.benign_test()) is not None:
            check(list(test["prompt"]), reply_tokens, "Held-out row of the task")
        if (rows_of_phase := material.alignment_rows) is not None:
            phase = rows_of_phase.phase
            phase.sizes(len(rows_of_phase.refusals), len(rows_of_phase.asked))
            check_rows(rows_of_phase.refusals, "Refusal of the alignment phase")
            if phase.prompts is None:
                check_rows(rows_of_phase.asked, "Ordinary row of the alignment phase")
            else:
                check(
                    list(rows_of_phase.asked["prompt"]),
                    phase.answer_tokens,
                    "Prompt of the alignment phase",
                )

    def content_digest(self) -> str:
        """SHA-256 (hex) over the content of all files: checkpoints with their tokenizers, probes, task, and
        rows of the alignment phase.

        Raises:
            HistoryError, ProbeError, DataError, ConfigError: if any of it cannot be read.
        """
        digest = hashlib.sha256()
        checkpoints = {
            checkpoint.source.identity(): checkpoint for history in self.histories() for checkpoint in history
        }
        for checkpoint in checkpoints.values():
            digest.update(checkpoint.fingerprint().encode())
        digest.update(self.probes.read(Path(self.root)).fingerprint().encode())
        sources = [self.task, *(self.alignment.sources if self.alignment else ())]
        for row in (row for source in sources if source for row in source.read(self.root)):
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()


def _without_aligned(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of a history whose reference stands in for its aligned checkpoint."""
    return {**table, "aligned": table["reference"]} if "reference" in table else dict(table)
