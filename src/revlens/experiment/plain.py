"""Configurations as plain values, for JSON: nested dataclasses are written with their type, and read back by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


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
            _check_parts(kind, fields)
            return kind(**fields)
    raise TypeError(f"unknown type {name!r}; expected one of {', '.join(kind.__name__ for kind in types)}")


def _check_parts(kind: type, fields: Mapping[str, Any]) -> None:
    """Where a configuration is expected inside another, there must be one: dataclasses do not look."""
    for name, hint in get_type_hints(kind).items():
        expected = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if name in fields and any(dataclasses.is_dataclass(part) for part in expected) and not isinstance(fields[name], expected):
            raise TypeError(f"{kind.__name__}.{name} is {fields[name]!r}, expected {' or '.join(part.__name__ for part in expected)}")
