"""Configurations as plain values, for JSON: nested dataclasses are written with their type, and read back by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from revlens.errors import FileError, ResultsError
from revlens.results.fields import fit_fields
from revlens.storage import read_json

_Kind = TypeVar("_Kind")


def to_plain(value: Any) -> Any:
    """Dataclasses become mappings with an entry ``type``, tuples lists; everything else stays."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, tuple | list) else value


def from_plain(value: Any, types: Sequence[type]) -> Any:
    """What `to_plain` was given; sequences come back as tuples.

    Raises:
        TypeError: on a type that is not among ``types``, or fields that it does not have or that hold something else.
    """
    if isinstance(value, list):
        return tuple(from_plain(item, types) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {key: from_plain(item, types) for key, item in value.items()}
    name = fields.pop("type", None)
    if name is None:
        return fields
    for kind in types:
        if kind.__name__ == name:
            return kind(**fit_fields(kind, fields))
    raise TypeError(f"unknown type {name!r}; expected one of {', '.join(kind.__name__ for kind in types)}")


def read_plain(path: Path, kind: type[_Kind], types: Sequence[type], what: str) -> _Kind:
    """A configuration that was written to a JSON file as `to_plain` gives it.

    Args:
        path: the file.
        kind: the class that it must be of.
        types: what it may be made of, itself included.
        what: it is, for errors.

    Raises:
        ResultsError: if the file holds anything else.
    """
    try:
        value = from_plain(read_json(path), types)
    except (FileError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path} is no {what} of this version of revlens: {error}") from error
    if not isinstance(value, kind):
        raise ResultsError(
            f"{path} is no {what} of this version of revlens: it holds {type(value).__name__}."
        )
    return value
