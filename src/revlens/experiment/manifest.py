"""An experiment on one's own history, from a TOML or YAML file; docs/own-models.md has the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from revlens.data import ChatSource, PromptSource
from revlens.errors import ConfigError
from revlens.experiment.config import ExperimentConfig
from revlens.history import read_table
from revlens.organism import CAPTURE_STEPS
from revlens.runs import OwnHistory, ProbeFiles
from revlens.training import FinetuneConfig

#: Keys of [experiment]; those of [finetune] are `FinetuneConfig`'s and ``lora``.
_EXPERIMENT = ("seeds", "arms", "steps", "strength", "reply_tokens", "n_null_draws", "n_controls", "batch_size")
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
            raise ConfigError(f"{path} has no [{required}] table; it needs [history], [probes] and [openings].")
    history, openings = dict(manifest["history"]), manifest["openings"]
    settings, finetune = dict(manifest.get("experiment", {})), dict(manifest.get("finetune", {}))
    _check_keys("[openings]", openings, ("engaging", "refusal"))
    _check_keys("[experiment]", settings, _EXPERIMENT)
    if "steps" in history and "runs" in history:
        raise ConfigError("[history] has steps (of one run) and runs (the steps of several); give one of them.")
    runs = (history.pop("steps"),) if "steps" in history else history.pop("runs", ())
    task = dict(manifest.get("task", {}))
    lora, rows = finetune.pop("lora", None), settings.pop("batch_size", None)
    # Of the keys of [task], these are about splitting it, the others about reading it.
    split = {name: task.pop(key) for key, name in _SPLIT.items() if key in task}
    subject = OwnHistory(
        root=str(root),
        history=_frozen(history),
        probes=_probes(manifest["probes"]),
        engaging=tuple(openings.get("engaging", ())),
        refusal=tuple(openings.get("refusal", ())),
        runs=_frozen(runs),
        task=_build("[task]", ChatSource, task) if task else None,
        benign=_build("[finetune]", FinetuneConfig, finetune) if finetune else None,
        lora=_frozen(lora),
        judge=_frozen(manifest.get("judge", {})),
        **split,
        **({} if rows is None else {"batch_size": rows}),
    )
    return _experiment(replace(subject, digest=subject.content_digest()), settings)


def _experiment(subject: OwnHistory, settings: dict[str, Any]) -> ExperimentConfig:
    """Seeds, arms and steps as they are given, or as the history has them."""
    if subject.benign is None:
        fixed = [name for name in ("seeds", "arms", "steps", "strength") if name in settings]
        if fixed:
            raise ConfigError(f"[experiment] {', '.join(fixed)}: the history's own steps are given, so nothing is fine-tuned.")
        settings |= {"seeds": range(len(subject.runs)), "arms": ("baseline",), "steps": _observed_steps(subject)}
    else:
        last = subject.benign.steps
        settings.setdefault("steps", (*(step for step in CAPTURE_STEPS if step < last), last))
        if settings["steps"][-1] != last:
            raise ConfigError(f"steps={list(settings['steps'])} of [experiment] must end at steps={last} of [finetune].")
        settings["seeds"] = range(settings.get("seeds", 5))
    for name in ("seeds", "arms", "steps"):
        if name in settings:
            settings[name] = tuple(settings[name])
    return _build("[experiment]", ExperimentConfig, settings | {"subject": subject})


def _frozen(value: Any) -> Any:
    """With tuples for lists at every depth, as a stored configuration is read back."""
    if isinstance(value, Mapping):
        return {str(key): _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _observed_steps(subject: OwnHistory) -> tuple[int, ...]:
    """The steps of the observed runs, which must be the same in all of them."""
    by_run = [tuple(checkpoint.step for checkpoint in history.steps if checkpoint.step) for history in subject.histories()]
    for run, steps in enumerate(by_run):
        if steps != by_run[0]:
            raise ConfigError(f"Runs must have the same steps: run 0 has {by_run[0]}, run {run} has {steps}.")
    return by_run[0]


def _probes(table: Mapping[str, Any]) -> ProbeFiles:
    pools = {
        kind: tuple(_build(f"[probes] {kind}", PromptSource, source) for source in _listed(table.get(kind, ())))
        for kind in ("harmful", "harmless")
    }
    return _build("[probes]", ProbeFiles, _frozen(table) | pools)


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, Mapping) else list(value)


def _build(where: str, kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """A dataclass from a table; keys that it lacks or misses are said in the table's words."""
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"{where} is not as expected: {error}.") from error


def _check_keys(where: str, table: object, known: tuple[str, ...]) -> None:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, got {table!r}.")
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ConfigError(f"Unknown {', '.join(map(repr, unknown))} in {where}; it may have {', '.join(known)}.")
