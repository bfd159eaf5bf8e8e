"""Prompts, benign task and judge of a user's history, from the files that its manifest names."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from revlens.behaviour import Judge, make_judge
from revlens.data import (
    ChatSource,
    PromptSource,
    TrainTest,
    make_probes,
    train_test_split,
)
from revlens.errors import ConfigError, ProbeError
from revlens.prompts import SPLITS, Probes
from revlens.subject.alignment_phase import AlignmentPhase
from revlens.subject.alignment_rows import AlignmentRows
from revlens.subject.overlaps import without_overlaps


@dataclass(frozen=True)
class ProbeFiles:
    """Where probe prompts come from: a file with prompts by split, or pools that are split here.

    Attributes:
        file: JSON of ``{"direction": [...], ...}``, see `Probes.from_json`.
        harmful: pools for the splits of harmful requests.
        harmless: pools for the split of harmless ones.
        borderline: pools for the split of safe ones that sound unsafe.
        sizes: number of prompts by split, see `make_probes`.
        seed: fixes the split of each prompt.
    """

    file: str | None = None
    harmful: tuple[PromptSource, ...] = ()
    harmless: tuple[PromptSource, ...] = ()
    borderline: tuple[PromptSource, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def read(self, root: Path) -> Probes:
        """The prompts; relative paths start at ``root``.

        Raises:
            ConfigError: if neither a file nor pools are given, or both are.
            ProbeError: if a split is missing; also see `Probes.from_json` and `make_probes`.
            DataError: see `PromptSource.read`.
        """
        if (self.file is None) == (not self.harmful):
            raise ConfigError(
                "Probes come from a file by split, or from pools of harmful and harmless prompts: "
                "give one of the two."
            )
        if self.file is not None:
            probes = Probes.from_json(root / self.file)
        else:
            pools = (
                [prompt for source in pool for prompt in source.read(root)]
                for pool in (self.harmful, self.harmless, self.borderline)
            )
            probes = make_probes(*pools, sizes=self.sizes, seed=self.seed)
        missing = [split for split in SPLITS if split not in probes.splits]
        if missing:
            raise ProbeError(
                f"An experiment needs the probe splits {', '.join(SPLITS)}; {', '.join(missing)} missing."
            )
        return probes


@dataclass(frozen=True)
class UserMaterial:
    """See `Material`.

    Attributes:
        root: folder where relative paths start.
        probe_files: where probes come from.
        engaging: openings of engaging answers.
        refusal: openings of refusals.
        task: the benign task, if there is one.
        n_task_test: held-out rows of the task.
        max_overlap: no row of the task may have this share of a probe prompt's wording, see ``near`` of
            `revlens.data.find_leaks`.
        drop_overlaps: leave such rows out, with a warning that says how many; an error otherwise.
        judge_settings: see `revlens.behaviour.make_judge`.
        alignment: the alignment phase, if the aligned model is trained here.
    """

    root: Path
    probe_files: ProbeFiles
    engaging: tuple[str, ...]
    refusal: tuple[str, ...]
    task: ChatSource | None
    n_task_test: int
    max_overlap: float
    drop_overlaps: bool
    judge_settings: Mapping[str, Any]
    alignment: AlignmentPhase | None = None

    def probes(self) -> Probes:
        """The prompts that the files hold."""
        return self._probes

    def keywords(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Empty: the words of a substantive answer to a user's prompts are not known."""
        return {}

    def strata(self) -> Mapping[str, Sequence[str]]:
        """Empty: the types of a user's requests are not known."""
        return {}

    @functools.cached_property  # every evaluation reads them
    def _probes(self) -> Probes:
        return self.probe_files.read(self.root)

    @functools.cached_property
    def _task(self) -> TrainTest | None:
        if self.task is None:
            return None
        return train_test_split(self.task.read(self.root), test_size=self.n_task_test, seed=0)

    def judge(self) -> Judge:
        """The judge that the settings name.

        Raises:
            ConfigError: see `revlens.behaviour.make_judge`.
        """
        return _judge(self.root, json.dumps(dict(self.judge_settings)))

    def openings(self) -> tuple[list[str], list[str]]:
        """As configured."""
        return list(self.engaging), list(self.refusal)

    def benign(self, n: int, seed: int) -> Dataset:
        """``n`` rows of the task, or all of them if there are fewer, in an order fixed by the seed.

        Raises:
            ProbeError: if a row overlaps with a probe prompt (see ``max_overlap``) and is not dropped.
            ConfigError: if there is no task.
        """
        if self._task is None:
            raise ConfigError("There is no [task] to train on.")
        train = without_overlaps(
            self._task.train, self._probes, "task", self.max_overlap, drop=self.drop_overlaps
        )
        return train.shuffle(seed=seed).select(range(min(n, len(train))))

    @functools.cached_property
    def alignment_rows(self) -> AlignmentRows | None:
        """The rows of the alignment phase; None without one."""
        if self.alignment is None:
            return None
        held_out = () if self._task is None else tuple(self._task.test["prompt"])
        return AlignmentRows(self.alignment, self.root, self._probes, held_out)

    def refusals(self, n: int, seed: int) -> Dataset | None:
        """``n`` refusals of the alignment phase, or all if there are fewer; None without one.

        On what a given aligned model was trained is not known.
        """
        if self.alignment_rows is None:
            return None
        rows = self.alignment_rows.refusals
        return rows.shuffle(seed=seed).select(range(min(n, len(rows))))

    def benign_test(self) -> Dataset | None:
        """The held-out rows of the task: the same for every seed."""
        return None if self._task is None else self._task.test


@functools.cache  # one model of a judge serves all checkpoints of a process
def _judge(root: Path, settings: str) -> Judge:
    return make_judge(json.loads(settings), root)
