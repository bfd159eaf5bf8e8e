"""An experiment on one's own history, from a TOML or YAML file; docs/own-models.md has the keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from revlens.data import ChatSource, PromptSource
from revlens.errors import ConfigError
from revlens.experiment.config import ExperimentConfig
from revlens.history import read_table
from revlens.results import fit_fields
from revlens.subject import ProbeFiles, UserHistory, capture_steps
from revlens.training import FinetuneConfig

#: Keys of [experiment]; those of [finetune] are `FinetuneConfig`'s and ``lora``.
_EXPERIMENT = (
    "seeds",
    "arms",
    "steps",
    "strength",
    "reply_tokens",
    "n_null_draws",
    "n_controls",
    "batch_size",
)
_SPLIT = {"n_test": "n_task_test", "max_overlap": "max_overlap", "drop_overlaps": "drop_overlaps"}
_TABLES = ("history", "probes", "openings", "task", "judge", "finetune", "experiment")


def read_manifest(path: Path) -> ExperimentConfig:
    """The experiment that a manifest describes. Reads every weight once, so that a resumed experiment knows its history.

    Raises:
        ConfigError: if a table is missing or a key is unknown or out of range, naming both.
        HistoryError: if the file cannot be read, or the checkpoints do not make a history.
        ProbeError, DataError: if prompts or task cannot be read.
    """
    manifest, root = read_table(path), path.parent.absolute()
    _check_keys("the manifest", manifest, _TABLES)
    for required in ("history", "probes", "openings"):
        if required not in manifest:
            raise ConfigError(
                f"{path} has no [{required}] table; it needs [history], [probes] and [openings]."
            )
    tables = {name: _table(f"[{name}]", manifest.get(name, {})) for name in _TABLES}
    history, openings, task, finetune, settings = (
        tables[name] for name in ("history", "openings", "task", "finetune", "experiment")
    )
    _check_keys("[openings]", openings, ("engaging", "refusal"))
    _check_keys("[experiment]", settings, _EXPERIMENT)
    if "steps" in history and "runs" in history:
        raise ConfigError(
            "[history] has steps (of one run) and runs (the steps of several); give one of them."
        )
    runs = (history.pop("steps"),) if "steps" in history else history.pop("runs", ())
    # Of the keys of [task] and [finetune], these are not the source's and the optimizer's.
    others = {name: task.pop(key) for key, name in _SPLIT.items() if key in task}
    others |= {"lora": _frozen(finetune.pop("lora"))} if "lora" in finetune else {}
    others |= {"batch_size": settings.pop("batch_size")} if "batch_size" in settings else {}
    subject = _build(
        "The manifest",
        UserHistory,
        {
            "root": str(root),
            "history": _frozen(history),
            "probes": _probes(tables["probes"]),
            "engaging": openings.get("engaging", ()),
            "refusal": openings.get("refusal", ()),
            "runs": _frozen(runs),
            "task": _build("[task]", ChatSource, task) if task else None,
            "benign": _build("[finetune]", FinetuneConfig, finetune) if finetune else None,
            "judge": _frozen(tables["judge"]),
            **others,
        },
    )
    return _experiment(replace(subject, digest=subject.content_digest()), settings)


def _experiment(subject: UserHistory, settings: dict[str, Any]) -> ExperimentConfig:
    """Seeds, arms and steps as they are given, or as the history has them."""
    if subject.benign is None:
        fixed = [name for name in ("seeds", "arms", "steps", "strength") if name in settings]
        if fixed:
            raise ConfigError(
                f"[experiment] {', '.join(fixed)}: the history's own steps are given, so nothing is fine-tuned."
            )
        settings |= {"arms": ("baseline",), "steps": _observed_steps(subject)}
        return _build("[experiment]", ExperimentConfig, settings | {"subject": subject}).with_seeds(
            len(subject.runs)
        )
    last, n = subject.benign.steps, settings.pop("seeds", 5)
    if type(n) is not int:
        raise ConfigError(f"seeds = {n!r} of [experiment] must be the number of runs.")
    settings.setdefault("steps", capture_steps(last))
    config = _build("[experiment]", ExperimentConfig, settings | {"subject": subject}).with_seeds(n)
    if config.steps[-1] != last:
        raise ConfigError(
            f"steps={list(config.steps)} of [experiment] must end at steps={last} of [finetune]."
        )
    return config


def _frozen(value: Any) -> Any:
    """With tuples for lists and text for keys at every depth, as a stored configuration is read back.

    Raises:
        ConfigError: if two keys are then the same, such as 3 and "3", or a value is a date or not finite, which is not stored.
    """
    if isinstance(value, Mapping):
        table = {str(key): _frozen(item) for key, item in value.items()}
        if len(table) < len(value):
            raise ConfigError(
                f"Of the keys {', '.join(map(repr, value))} two are the same, once as a number and once as text."
            )
        return table
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if not isinstance(value, str | int | float | None) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ConfigError(
            f"{value} is no setting: expected text, a finite number, true or false; put a date in quotes."
        )
    return value


def _observed_steps(subject: UserHistory) -> tuple[int, ...]:
    """The steps of the observed runs, which must be the same in all of them."""
    by_run = [
        tuple(checkpoint.step for checkpoint in history.steps if checkpoint.step)
        for history in subject.histories()
    ]
    for run, steps in enumerate(by_run):
        if steps != by_run[0]:
            raise ConfigError(f"Runs must have the same steps: run 0 has {by_run[0]}, run {run} has {steps}.")
    return by_run[0]


def _probes(table: Mapping[str, Any]) -> ProbeFiles:
    pools = {
        kind: _pool(f"[probes] {kind}", table[kind]) for kind in ("harmful", "harmless") if kind in table
    }
    return _build("[probes]", ProbeFiles, _frozen(table) | pools)


def _pool(where: str, sources: Any) -> tuple[PromptSource, ...]:
    """One table, or a list of them."""
    listed = sources if isinstance(sources, list) else [sources]
    return tuple(_build(where, PromptSource, _table(where, source)) for source in listed)


def _build(where: str, kind: type, settings: Mapping[str, Any]) -> Any:
    """A dataclass from a table; keys that it lacks or misses, and values of another type, are said in the table's words."""
    try:
        return kind(**fit_fields(kind, settings))
    except TypeError as error:
        raise ConfigError(f"{where} is not as expected: {error}.") from error


def _table(where: str, value: Any) -> dict[str, Any]:
    """A copy to take keys out of."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a table, got {value!r}.")
    return {str(key): item for key, item in value.items()}


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ConfigError(
            f"Unknown {', '.join(map(repr, unknown))} in {where}; it may have {', '.join(known)}."
        )
