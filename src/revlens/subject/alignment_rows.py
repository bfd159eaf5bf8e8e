"""The rows of an alignment phase: read, kept free of probes, and answered by the reference once."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from revlens.behaviour import generate, is_degenerate, is_refusal
from revlens.data import distinct, normalise
from revlens.errors import DataError, HistoryError
from revlens.history import Checkpoint
from revlens.prompts import Probes
from revlens.storage import cache_root, damage, make_once, write_listed_json
from revlens.subject.alignment_phase import AlignmentPhase
from revlens.subject.cache import cache_key
from revlens.subject.overlaps import without_overlaps


@dataclass(frozen=True)
class AlignmentRows:
    """The pools from which every seed draws.

    Attributes:
        phase: where they come from.
        root: folder where relative paths start.
        probes: no row may repeat one of them.
        held_out: prompts on which task loss is measured; rows that repeat one are left out.
    """

    phase: AlignmentPhase
    root: Path
    probes: Probes
    held_out: tuple[str, ...]

    @functools.cached_property
    def refusals(self) -> Dataset:
        """Harmful requests with refusals.

        Raises:
            DataError: if they cannot be read, or none is a refusal.
            ProbeError: see `without_overlaps`.
        """
        rows = self.phase.refusals.read(self.root)
        if self.phase.only_refusals:
            rows = _selected(rows, [is_refusal(answer) for answer in rows["answer"]])
            if len(rows) == 0:
                raise DataError(
                    f"No answer of {self.phase.refusals.path} is a refusal by the default phrases; leave out "
                    "only_refusals, or give other rows."
                )
        return self._free_of_probes(rows, "refusals")

    @functools.cached_property
    def asked(self) -> Dataset:
        """Ordinary exchanges, or the prompts alone where the reference is to answer.

        Raises:
            DataError: if they cannot be read.
            ProbeError: see `without_overlaps`.
        """
        *_, source = self.phase.sources
        rows = source.read(self.root)
        if not isinstance(rows, Dataset):
            rows = Dataset.from_dict({"prompt": list(rows)})
        if self.phase.prompts is not None:
            rows = Dataset.from_dict({"prompt": list(distinct(rows["prompt"]).prompts)})
        held_out = {normalise(prompt) for prompt in self.held_out}
        rows = _selected(rows, [normalise(prompt) not in held_out for prompt in rows["prompt"]])
        return self._free_of_probes(rows, "ordinary rows")

    def ordinary(self, reference: Checkpoint, batch_size: int) -> Dataset:
        """Ordinary exchanges. Where the reference is to answer, it does so now, or has done so before.

        Its answers without text are left out: they teach nothing but to end.

        Args:
            reference: whose answers they are.
            batch_size: prompts at a time.

        Raises:
            DataError, ProbeError: see `asked`.
            HistoryError: if the reference cannot be loaded, or its cached answers are damaged.
        """
        rows = self.asked
        if self.phase.prompts is None:
            return rows
        prompts = list(rows["prompt"])
        answers = _answers(reference, prompts, self.phase.answer_tokens, batch_size)
        answered = Dataset.from_dict({"prompt": prompts, "answer": answers})
        return _selected(answered, [not is_degenerate(answer) for answer in answers])

    def _free_of_probes(self, rows: Dataset, what: str) -> Dataset:
        phase = self.phase
        return without_overlaps(
            rows, self.probes, f"{what} of the alignment phase", phase.max_overlap, drop=phase.drop_overlaps
        )


def _answers(reference: Checkpoint, prompts: Sequence[str], n_tokens: int, batch_size: int) -> list[str]:
    """The reference's greedy answers, from the cache if it has given them before."""
    about = [
        reference.fingerprint(),
        str(reference.dtype),
        dict(reference.template_kwargs),
        reference.template_date,
        list(prompts),
        n_tokens,
        batch_size,
    ]
    folder = cache_root() / "answers" / cache_key(*about)
    file = folder / "answers.json"

    def answer() -> None:
        replies = generate(
            reference.module(),
            prompts,
            max_new_tokens=n_tokens,
            batch_size=batch_size,
            tokenizer=reference.tokenizer(),
        )
        write_listed_json(file, replies)

    make_once(file, answer)
    if problem := damage(file):
        raise HistoryError(f"{problem} Delete {folder}: the reference answers again.")
    answers: list[str] = json.loads(file.read_text())
    return answers


def _selected(rows: Dataset, kept: Sequence[bool]) -> Dataset:
    return rows.select([row for row, keep in enumerate(kept) if keep])
