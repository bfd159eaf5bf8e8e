"""Manifests: TOML files, and the sources of a history that a table in one names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from revlens.errors import FileError, HistoryError
from revlens.history.adapter import Adapter, local_source
from revlens.history.gguf import Gguf
from revlens.history.hub import Hub
from revlens.history.source import Source
from revlens.history.step_folders import by_step, step_folders
from revlens.storage import read_text

#: More levels of tables and lists than any manifest has; each costs every later reader a few stack frames.
MAX_DEPTH = 32
_KEYS = ("reference", "aligned", "steps", "dtype", "chat_template", "template_kwargs", "template_date")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_table(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        HistoryError: if the file cannot be read, or is no TOML.
    """
    if path.suffix != ".toml":
        raise HistoryError(
            f"{path} is no TOML file. Manifests are TOML: write it as {path.stem or 'run'}.toml, "
            "with the keys of docs/own-models.md or docs/histories.md."
        )
    try:
        table = tomllib.loads(read_text(path))
    except RecursionError as error:
        raise HistoryError(f"Cannot read the manifest {path}: it is nested too deeply.") from error
    except (FileError, ValueError, TypeError) as error:  # no TOML, or an invalid number or date
        raise HistoryError(f"Cannot read the manifest {path}: {error}") from error
    if _is_deeper(table, MAX_DEPTH):  # dotted keys, which the parser reads without recursion
        raise HistoryError(f"Cannot read the manifest {path}: it is nested too deeply.")
    return table


def parse_table(
    table: Mapping[str, Any], root: Path
) -> tuple[Source, Source, dict[int, Source], dict[str, Any]]:
    """The reference, aligned and the steps that a table names, and what else `from_sources` takes.

    Raises:
        HistoryError: if a key is unknown or missing, or a value is not what it must be.
    """
    _only(table, _KEYS, "a history")
    for key in ("reference", "aligned"):
        if key not in table:
            raise HistoryError(
                f"A history needs {key!r}: a folder, or a table such as "
                "{hub = 'org/name', revision = 'main'}."
                + (" Or [alignment] of an experiment trains it." if key == "aligned" else "")
            )
    dtype = table.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise HistoryError(f"dtype = {dtype!r} must be one of {', '.join(_DTYPES)}.")
    if table.get("chat_template", "aligned") != "aligned":
        raise HistoryError(
            f"chat_template = {table['chat_template']!r} can only be 'aligned': "
            "its template encodes all prompts."
        )
    if not isinstance(table.get("template_kwargs", {}), Mapping):
        raise HistoryError(
            f"template_kwargs = {table['template_kwargs']!r} must be a table of the chat template's "
            "arguments, "
            "such as {enable_thinking = false}."
        )
    if not isinstance(table.get("template_date", ""), str):
        raise HistoryError(
            f'template_date = {table["template_date"]} must be text, such as "2026-01-31"; put it in quotes.'
        )
    aligned = _source(table["aligned"], root)
    steps = _steps(table.get("steps", {}), root, aligned)
    settings = {name: table[name] for name in ("template_kwargs", "template_date") if name in table}
    settings |= {"dtype": _DTYPES[dtype], "any_template": "chat_template" in table}
    return _source(table["reference"], root), aligned, steps, settings


def _steps(steps: object, root: Path, aligned: Source) -> dict[int, Source]:
    if isinstance(steps, str):
        return {step: local_source(folder, aligned) for step, folder in step_folders(steps, root).items()}
    if isinstance(steps, list):
        if not all(isinstance(entry, str) for entry in steps):
            raise HistoryError(
                f"steps = {steps} must list folders; other sources go into a table from step to source."
            )
        return {
            step: local_source(folder, aligned)
            for step, folder in by_step(root / entry for entry in steps).items()
        }
    if isinstance(steps, Mapping):
        sources: dict[int, Source] = {}
        for step, entry in steps.items():
            if not re.fullmatch("[0-9]{1,18}", str(step)):
                raise HistoryError(f"steps has the key {step!r}; keys are numbers of optimizer updates.")
            if int(step) in sources:
                raise HistoryError(f"steps names step {int(step)} twice.")
            sources[int(step)] = _source(entry, root, aligned)
        return sources
    raise HistoryError(
        f"steps = {steps!r} must be a glob pattern such as 'ft/checkpoint-*', a list of folders "
        "or a table from step to source."
    )


def _source(entry: object, root: Path, base: Source | None = None) -> Source:
    """The source that a string or a table names; ``base`` is that of an adapter which names none."""
    if isinstance(entry, str):
        return local_source(root / entry, base)
    if not isinstance(entry, Mapping):
        raise HistoryError(f"{entry!r} must be a folder or a table with dir, hub or adapter.")
    kinds = {
        "dir": ("dir",),
        "gguf": ("gguf",),
        "hub": ("hub", "revision"),
        "adapter": ("adapter", "base"),
    }
    kind = [key for key in kinds if key in entry]
    if len(kind) != 1:
        raise HistoryError(f"{dict(entry)} must have exactly one of the keys {', '.join(kinds)}.")
    _only(entry, kinds[kind[0]], f"a source by {kind[0]!r}")
    wrong = [key for key, value in entry.items() if key != "base" and not isinstance(value, str)]
    if wrong:
        raise HistoryError(f"{wrong[0]} = {entry[wrong[0]]!r} must be a string.")
    if kind == ["hub"]:
        return Hub(entry["hub"], entry.get("revision", "main"))
    if kind == ["gguf"]:
        return Gguf(root / entry["gguf"])
    if kind == ["dir"]:
        return local_source(root / entry["dir"], base)
    own_base = _source(entry["base"], root) if "base" in entry else base
    path = root / entry["adapter"]
    return local_source(path) if own_base is None else Adapter(path, own_base)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether tables and lists nest in more than ``levels`` levels."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(item, levels - 1) for item in items)


def _only(table: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = [str(key) for key in table if key not in known]
    if unknown:
        raise HistoryError(f"Unknown key {', '.join(unknown)} of {what}; known are {', '.join(known)}.")
