"""Configurations in JSON: every dataclass is a table whose ``type`` names its class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from revlens.errors import ConfigError, FileError, ResultsError
from revlens.results.build_config import build_config
from revlens.storage import read_json

_Kind = TypeVar("_Kind")


def config_json(value: Any) -> Any:
    """A configuration as plain JSON values: tables with ``type`` for dataclasses, lists for tuples."""
    if dataclasses.is_dataclass(value):
        settings = {
            field.name: config_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"type": type(value).__name__} | settings
    if isinstance(value, Mapping):
        return {key: config_json(item) for key, item in value.items()}
    return [config_json(item) for item in value] if isinstance(value, tuple | list) else value


def read_config(path: Path, kind: type[_Kind], what: str) -> _Kind:
    """The configuration in a JSON file, as `config_json` gives it; lists come back as tuples.

    Args:
        path: the file.
        kind: its dataclass. The types of the fields say which other dataclasses it may hold.
        what: name of such a configuration in errors.

    Raises:
        ResultsError: if the file holds anything else, or a setting is out of its range.
    """
    try:
        config = _from_json(read_json(path), kind)
        if not isinstance(config, kind):
            raise TypeError(f"it holds no table with type = {kind.__name__!r}")
    except (FileError, ConfigError, TypeError, RecursionError) as error:
        why = str(error).rstrip(".")
        raise ResultsError(f"{path} is no {what} of this version of revlens: {why}.") from error
    return config


def _from_json(value: Any, hint: Any) -> Any:
    """A value for a field: a tuple for a list, a dataclass for a table if the field's type has any."""
    if isinstance(value, list):
        return tuple(_from_json(item, hint) for item in value)
    if not isinstance(value, dict):
        return value
    kinds = {kind.__name__: kind for kind in _dataclasses(hint)}
    if not kinds or "type" not in value:
        return {key: _from_json(item, hint) for key, item in value.items()}
    kind = next((kind for name, kind in kinds.items() if name == value["type"]), None)
    if kind is None:
        raise TypeError(f"the type {value['type']!r} is not known here, expected {' or '.join(kinds)}")
    hints = get_type_hints(kind)
    settings = {key: _from_json(item, hints.get(key)) for key, item in value.items() if key != "type"}
    try:
        return build_config(kind, settings)
    except TypeError as error:
        raise TypeError(f"{kind.__name__}: {error}") from error


def _dataclasses(hint: Any) -> list[type]:
    """The dataclasses that a type is made of."""
    if dataclasses.is_dataclass(hint):
        return [hint]  # type: ignore[list-item]
    return [kind for part in get_args(hint) for kind in _dataclasses(part)]
