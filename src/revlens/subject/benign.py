"""The benign fine-tune of one seed, with or without a guard, and its cached checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from revlens.data import check_no_leak
from revlens.errors import ConfigError, HistoryError, NonFiniteError
from revlens.history import Checkpoint, TrainingHistory, local_source, save
from revlens.storage import cache_root, damage, sole_writer, write_listed_json
from revlens.subject.cache import cache_key
from revlens.subject.protocol import Subject
from revlens.training import Guard, finetune

#: Updates after which a benign fine-tune is captured. Early ones are dense: they decide most of the drift's
#: direction.
CAPTURE_STEPS = (1, 2, 5, 10, 20, 35, 50, 75, 100)


def capture_steps(last: int) -> tuple[int, ...]:
    """The steps of `CAPTURE_STEPS` before the last update, and the last update."""
    return (*(step for step in CAPTURE_STEPS if step < last), last)


def check_steps(steps: tuple[int, ...]) -> None:
    """Check the updates after which a fine-tune is captured.

    Raises:
        ConfigError: if there are none, or they are not positive and increasing.
    """
    if not steps or list(steps) != sorted({step for step in steps if step > 0}):
        raise ConfigError(f"steps={steps} must be positive and increasing.")


def benign_start(
    subject: Subject, seed: int, steps: int, phase: Literal["reference", "aligned"] = "aligned"
) -> tuple[TransformerBridge, Dataset]:
    """The model from which a seed's benign fine-tune starts, and the data of its updates.

    Raises:
        ProbeError: if a probe prompt is among the data.
    """
    assert subject.benign is not None
    material = subject.material()
    data = material.benign(steps * subject.benign.batch_size, seed)
    check_no_leak(material.probes(), data)
    return subject.trainee(seed, phase), data


@dataclass(frozen=True)
class BenignRun:
    """The benign fine-tune of one seed, with or without a guard, and its cached checkpoints.

    Attributes:
        subject: the start and the benign task.
        seed: see `Subject.start`; fine-tunes of one seed see the same data in the same order.
        steps: updates after which a checkpoint is saved; the last one ends the run.
        label: names the guard and everything that decides its effect; ``baseline`` for none.
        phase: whose model it starts from.

    Raises:
        ConfigError: if steps are not positive and increasing, or the subject comes with its own checkpoints.
    """

    subject: Subject
    seed: int
    steps: tuple[int, ...]
    label: str = "baseline"
    phase: Literal["reference", "aligned"] = "aligned"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.subject.benign is None:
            raise ConfigError(
                "These fine-tuning checkpoints are given: there is no benign task to train on. "
                "Add a [finetune] table."
            )

    @cached_property  # asked for at every step, and what the start was trained on takes long to tell
    def folder(self) -> Path:
        """Where its checkpoints are cached."""
        key = cache_key(self.subject, self.steps, self.subject.start_key(self.seed), kind="finetune")
        return cache_root() / "finetune" / key / f"seed-{self.seed}" / self.label

    @property
    def is_done(self) -> bool:
        """Whether every checkpoint is cached."""
        # The losses are written last: checkpoints without them are of an interrupted fine-tune.
        return self._losses_file.is_file() and all(
            (self.folder / f"step-{step}").is_dir() for step in self.steps
        )

    @property
    def _losses_file(self) -> Path:
        return self.folder / "losses.json"

    def losses(self) -> list[float]:
        """Task loss at every update, in nats per answer token.

        Raises:
            HistoryError: if the file is damaged.
        """
        if problem := damage(self._losses_file):
            raise HistoryError(f"{problem} Delete {self.folder}: it is trained again.")
        return json.loads(self._losses_file.read_text())

    def history(self) -> TrainingHistory:
        """Reference, the model that the fine-tune starts from as the aligned one, and the saved steps."""
        start = self.subject.start(self.seed)
        first: Checkpoint = getattr(start, self.phase)
        saved = {step: local_source(self.folder / f"step-{step}", first.source) for step in self.steps}
        return replace(
            start,
            aligned=replace(first, phase="aligned", step=0),
            steps=tuple(Checkpoint(source, "finetune", step) for step, source in saved.items()),
        )

    def train(
        self,
        make_guard: Callable[[TransformerBridge], Guard | None] = lambda aligned: None,
        *,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Fine-tune, unless the checkpoints are cached; wait if another process is training them.

        An interrupted fine-tune starts over, and writes the same bytes again.

        Args:
            make_guard: builds the guard from the aligned model, before the first update.
            on_step: called after each update with its number.

        Raises:
            NonFiniteError: see `finetune`, with a note of where the checkpoints before it are.
            ProbeError: see `benign_start`.
        """
        if self.is_done:
            return
        with sole_writer(self.folder, wait=True):
            if self.is_done:
                return
            try:
                self._train(make_guard, on_step)
            except NonFiniteError as error:
                error.add_note(f"The checkpoints saved before that are kept in {self.folder}.")
                raise

    def _train(
        self, make_guard: Callable[[TransformerBridge], Guard | None], on_step: Callable[[int], None]
    ) -> None:
        assert self.subject.benign is not None
        phase = replace(self.subject.benign, steps=self.steps[-1])
        model, data = benign_start(self.subject, self.seed, phase.steps, self.phase)
        losses: list[float] = []

        def after_step(step: int, loss: float) -> None:
            losses.append(loss)
            if step in self.steps:
                save(model, self.folder / f"step-{step}")
            on_step(step)

        finetune(model, data, phase, seed=self.seed, guard=make_guard(model), on_step=after_step)
        write_listed_json(self._losses_file, losses)
