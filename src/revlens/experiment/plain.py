"""Configurations as plain values, for JSON: nested dataclasses are written with their type, and read back by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from revlens.experiment.fields import fit_fields


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
