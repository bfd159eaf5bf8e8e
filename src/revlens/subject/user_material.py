"""Prompts, benign task and judge of an experiment on one's own history, from the files that its manifest names."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from revlens.behaviour import ClassifierJudge, GuardModelJudge, Judge, LLMJudge, PhraseJudge
from revlens.data import (
    ChatSource,
    DroppedWarning,
    PromptSource,
    TrainTest,
    check_no_leak,
    drop_leaks,
    make_probes,
    train_test_split,
)
from revlens.errors import ConfigError, ProbeError
from revlens.prompts import SPLITS, Probes

_JUDGES: Mapping[str, Callable[..., Judge]] = {
    "classifier": ClassifierJudge.from_dir,
    "guard": GuardModelJudge.from_dir,
    "llm": LLMJudge.from_dir,
}


@dataclass(frozen=True)
class ProbeFiles:
    """Where probe prompts come from: a file that has them by split already, or pools that are split here.

    Attributes:
        file: JSON of ``{"direction": [...], ...}``, see `Probes.from_json`.
        harmful: pools for the splits of harmful requests.
        harmless: pools for the split of harmless ones.
        sizes: prompts by split, see `make_probes`.
        seed: fixes which prompt goes where.
    """

    file: str | None = None
    harmful: tuple[PromptSource, ...] = ()
    harmless: tuple[PromptSource, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def read(self, root: Path) -> Probes:
        """The prompts; relative paths start at ``root``.

        Raises:
            ConfigError: if neither a file nor pools are given, or both are.
            ProbeError, DataError: see `Probes.from_json`, `PromptSource.read` and `make_probes`; also if a split is missing.
        """
        if (self.file is None) == (not self.harmful):
            raise ConfigError(
                "Probes come from a file by split, or from pools of harmful and harmless prompts: give one of the two."
            )
        if self.file is not None:
            probes = Probes.from_json(root / self.file)
        else:
            harmful, harmless = (
                [prompt for source in pool for prompt in source.read(root)]
                for pool in (self.harmful, self.harmless)
            )
            probes = make_probes(harmful, harmless, sizes=self.sizes, seed=self.seed)
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
        engaging: texts with which engaging answers open.
        refusal: texts with which refusals open.
        task: the benign task, if there is one.
        n_task_test: rows of it that are held out.
        max_overlap: no row of it may have this share of a probe prompt's wording, see ``near`` of `revlens.data.find_leaks`.
        drop_overlaps: leave such rows out, with a warning that says how many; an error otherwise.
        judge_settings: empty for the default judge; else ``kind`` (``classifier``, ``guard``, ``llm``), ``path`` and the settings
            of that judge's ``from_dir``.
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

    def probes(self) -> Probes:
        """The prompts that the files hold."""
        return self._probes

    def keywords(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """None: what a substantive answer to these prompts contains is not known here."""
        return {}

    @functools.cached_property  # asked for at every evaluation
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
            ConfigError: on an unknown kind or setting; also see the judges' ``from_dir``.
        """
        return _judge(self.root, json.dumps(dict(self.judge_settings)))

    def openings(self) -> tuple[list[str], list[str]]:
        """As configured."""
        return list(self.engaging), list(self.refusal)

    def benign(self, n: int, seed: int) -> Dataset:
        """``n`` rows of the task in an order fixed by the seed; all of them, if there are fewer.

        Raises:
            ProbeError: if a row gives a probe prompt away (see ``max_overlap``), unless such rows are dropped.
            ConfigError: if there is no task.
        """
        if self._task is None:
            raise ConfigError("There is no [task] to train on.")
        train = self._task.train
        if self.drop_overlaps:
            train, n_dropped = drop_leaks(train, self._probes, near=self.max_overlap)
            if n_dropped:
                warnings.warn(
                    f"Left out {n_dropped} row(s) of the task that overlap with a probe prompt.",
                    DroppedWarning,
                    stacklevel=2,
                )
        else:
            check_no_leak(self._probes, train, near=self.max_overlap)
        return train.shuffle(seed=seed).select(range(min(n, len(train))))

    def refusals(self, n: int, seed: int) -> None:
        """What one's own model was aligned on is not known here."""
        return

    def benign_test(self) -> Dataset | None:
        """The held-out rows of the task: the same for every seed."""
        return None if self._task is None else self._task.test


@functools.cache  # a model that judges is loaded once in a process, not at every checkpoint
def _judge(root: Path, settings: str) -> Judge:
    options = json.loads(settings)
    if not options:
        return PhraseJudge()
    kind, path = options.pop("kind", None), options.pop("path", None)
    if kind not in _JUDGES or path is None:
        raise ConfigError(
            f"[judge] needs kind (one of {', '.join(_JUDGES)}) and path; got kind={kind!r}, path={path!r}."
        )
    try:
        return _JUDGES[kind](root / path, **options)
    except TypeError as error:
        raise ConfigError(f"[judge] of kind {kind!r} does not take these settings: {error}") from error
