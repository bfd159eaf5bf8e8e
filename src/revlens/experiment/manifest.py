"""An experiment on a user's own history, from a TOML file; docs/own-models.md has the keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from revlens.chat_templates import today
from revlens.data import ChatSource, PromptSource
from revlens.errors import ConfigError
from revlens.experiment.arms.plan import Arms
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.guards.plan import Guards
from revlens.history import read_table
from revlens.results import build_config
from revlens.subject import AlignmentPhase, ProbeFiles, UserHistory, capture_steps
from revlens.training import FinetuneConfig

_Kind = TypeVar("_Kind")

_EXPERIMENT = ("seeds", "steps", "reply_tokens", "batch_size")
#: Keys of [task] that are not the source's, by the subject's name for them.
_SPLIT = {"n_test": "n_task_test", "max_overlap": "max_overlap", "drop_overlaps": "drop_overlaps"}
#: Keys of [study]: of a user's own model there is the grid, and early warning over learning rates.
_STUDY = ("grid", "rates")
_TABLES = ("history", "alignment", "probes", "openings", "task", "judge", "finetune", "experiment", "study")
#: Keys of a source of prompts that name a column of exchanges.
_OF_EXCHANGES = ("prompt", "answer", "context", "messages")


def read_judge(path: Path) -> dict[str, Any]:
    """The [judge] table of a TOML file, as `revlens.behaviour.make_judge` takes it.

    Raises:
        ConfigError: if it has no such table.
        HistoryError: if the file cannot be read.
    """
    table = read_table(path).get("judge")
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"{path} has no [judge] table with the kind of a judge; see docs/judges.md.")
    return table


def read_manifest(path: Path, *, study: bool = False, template_date: str | None = None) -> ExperimentConfig:
    """The experiment that a manifest describes: the arms, or a study of guards on the same subject.

    Reads every weight once: a resumed experiment must find the same content again.

    Args:
        path: of the manifest.
        study: whether guards are compared.
        template_date: what a chat template that writes the date reads, where [history] has no template_date;
            today's if None.

    Raises:
        ConfigError: if a table is missing, or a key is unknown, of another type or out of range, naming
            both; if prompts with their replies, or rows of the task, do not fit the model.
        HistoryError: if the file cannot be read, or the checkpoints do not make a history.
        ProbeError, DataError: if prompts or task cannot be read.
    """
    table = read_table(path)
    return manifest_experiment(
        table, path.parent.absolute(), str(path), study=study, template_date=template_date
    )


def manifest_experiment(
    manifest: Mapping[str, Any],
    root: Path,
    where: str,
    *,
    study: bool = False,
    template_date: str | None = None,
) -> ExperimentConfig:
    """The experiment that the tables of a manifest describe.

    Args:
        manifest: as a TOML file has them.
        root: folder where relative paths start.
        where: what errors call the manifest.
        study, template_date: see `read_manifest`.

    Raises:
        ConfigError, HistoryError, ProbeError, DataError: see `read_manifest`.
    """
    _check_keys("the manifest", manifest, _TABLES)
    for required in ("history", "probes", "openings"):
        if required not in manifest:
            raise ConfigError(
                f"{where} has no [{required}] table; it needs [history], [probes] and [openings]."
            )
    tables = {name: _table(f"[{name}]", _frozen(manifest.get(name, {}), name)) for name in _TABLES}
    history, openings, task, finetune, settings = (
        tables[name] for name in ("history", "openings", "task", "finetune", "experiment")
    )
    _check_keys("[openings]", openings, ("engaging", "refusal"))
    _check_keys("[task]", task, (*_names(ChatSource), *_SPLIT))
    _check_keys("[finetune]", finetune, (*_names(FinetuneConfig), "lora"))
    _check_keys("[experiment]", settings, (*_EXPERIMENT, *_names(Arms)))
    _check_keys("[study]", tables["study"], _STUDY)
    if "steps" in history and "runs" in history:
        raise ConfigError(
            "[history] has steps (of one run) and runs (the steps of several); give one of them."
        )
    runs = (history.pop("steps"),) if "steps" in history else history.pop("runs", ())
    others = {name: task.pop(key) for key, name in _SPLIT.items() if key in task}
    others |= {"lora": finetune.pop("lora")} if "lora" in finetune else {}
    others |= {"batch_size": settings.pop("batch_size")} if "batch_size" in settings else {}
    subject = _build(
        "The manifest",
        UserHistory,
        {
            "root": str(root),
            "history": history,
            "probes": _probes(tables["probes"]),
            "engaging": openings.get("engaging", ()),
            "refusal": openings.get("refusal", ()),
            "runs": runs,
            "task": _build("[task]", ChatSource, task) if task else None,
            "benign": _build("[finetune]", FinetuneConfig, finetune) if finetune else None,
            "alignment": _alignment(tables["alignment"]) if tables["alignment"] else None,
            "judge": tables["judge"],
            **others,
        },
    )
    if "template_date" not in history and subject.reads_clock:
        subject = replace(subject, history={**history, "template_date": template_date or today()})
    config = _experiment(subject, settings)
    subject.check_context(config.reply_tokens)
    config = replace(config, subject=replace(subject, digest=subject.content_digest()))
    return _study(config, tables["study"]) if study else config


def _experiment(subject: UserHistory, settings: dict[str, Any]) -> ExperimentConfig:
    """Seeds, steps and arms as the manifest gives them, or as the history has them."""
    arms = {name: settings.pop(name) for name in _names(Arms) if name in settings}
    if subject.benign is None:
        fixed = [name for name in ("seeds", "steps", "arms", "strength") if name in settings | arms]
        if fixed:
            raise ConfigError(
                f"[experiment] {', '.join(fixed)}: [history] has the steps, so nothing is fine-tuned."
            )
        arms |= {"arms": ("baseline",)}
        settings |= {"steps": _observed_steps(subject)}
        n = len(subject.runs)
    else:
        last, n = subject.benign.steps, settings.pop("seeds", 5)
        if type(n) is not int:
            raise ConfigError(f"seeds = {n!r} of [experiment] must be the number of runs.")
        settings.setdefault("steps", capture_steps(last))
    settings |= {"subject": subject, "plan": _build("[experiment]", Arms, arms)}
    config = _build("[experiment]", ExperimentConfig, settings).with_seeds(n)
    if subject.benign is not None and config.steps[-1] != subject.benign.steps:
        raise ConfigError(
            f"steps={list(config.steps)} of [experiment] must end at steps={subject.benign.steps} of "
            "[finetune]."
        )
    return config


def _study(config: ExperimentConfig, settings: dict[str, Any]) -> ExperimentConfig:
    """The same subject, seeds and steps under a small study; what the manifest gives replaces its parts.

    TOML has no word for nothing: a method that has no strength has an empty list of them.
    """
    plan = Guards.small(config)
    if "grid" in settings:
        grid = {
            name: strengths or (None,) for name, strengths in _table("[study] grid", settings["grid"]).items()
        }
        settings["grid"] = {"baseline": (None,), **grid}
    if "rates" in settings:
        settings["tasks"] = config.subject.tasks
    given = {name: getattr(plan, name) for name in _names(Guards)} | settings
    return config.with_plan(_build("[study]", Guards, given))


def _frozen(value: Any, where: str) -> Any:
    """With tuples for lists at every depth, as a stored configuration is read back.

    Raises:
        ConfigError: if a value is a date or not finite, which JSON does not store.
    """
    if isinstance(value, Mapping):
        return {key: _frozen(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_frozen(item, f"{where}[{i}]") for i, item in enumerate(value))
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(
            f"{where} is {value}, expected text, a finite number, true or false; put a date in quotes."
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


def _probes(table: dict[str, Any]) -> ProbeFiles:
    pools = {
        kind: _pool(f"[probes] {kind}", table[kind])
        for kind in ("harmful", "harmless", "borderline")
        if kind in table
    }
    return _build("[probes]", ProbeFiles, table | pools)


def _alignment(table: dict[str, Any]) -> AlignmentPhase:
    """The alignment phase: the recipe's keys stand beside the others, as in [finetune]."""
    own = tuple(name for name in _names(AlignmentPhase) if name != "recipe")
    _check_keys("[alignment]", table, (*_names(FinetuneConfig), *own))
    recipe = {name: table.pop(name) for name in _names(FinetuneConfig) if name in table}
    table["recipe"] = _build("[alignment]", FinetuneConfig, recipe)
    for key in ("refusals", "ordinary", "prompts"):
        if key not in table or (key == "ordinary" and isinstance(table[key], str)):
            continue
        where = f"[alignment] {key}"
        source = _table(where, table[key])
        holds_prompts_alone = key == "prompts" and not set(_OF_EXCHANGES) & source.keys()
        table[key] = _build(where, PromptSource if holds_prompts_alone else ChatSource, source)
    return _build("[alignment]", AlignmentPhase, table)


def _pool(where: str, sources: Any) -> tuple[PromptSource, ...]:
    """One table, or a list of them."""
    listed = sources if isinstance(sources, tuple) else (sources,)
    return tuple(_build(where, PromptSource, _table(where, source)) for source in listed)


def _build(where: str, kind: type[_Kind], settings: dict[str, Any]) -> _Kind:
    """A dataclass from a table, which errors name."""
    try:
        return build_config(kind, settings)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}.") from error


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, expected a table.")
    return value


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ConfigError(
            f"Unknown {', '.join(map(repr, unknown))} in {where}; it may have {', '.join(known)}."
        )
