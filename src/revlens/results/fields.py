"""Values for the fields of a configuration, seen to be of the types that it declares: dataclasses do not look."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def fit_fields(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass as it declares them: lists become tuples, whole numbers decimal ones where these are wanted.

    Args:
        kind: a dataclass of plain values, sequences, mappings and other dataclasses.
        fields: its values by name; names that it does not have are left for it to refuse.

    Raises:
        TypeError: if a value is of another type, or a number is not finite, naming both.
    """
    hints = get_type_hints(kind)
    return {
        name: _fit(value, hints[name], f"{kind.__name__}.{name}") if name in hints else value
        for name, value in fields.items()
    }


def _fit(value: Any, hint: Any, where: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _fit_any(value, parts, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_fit(item, parts[0], where) for item in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {_fit(key, parts[0], where): _fit(item, parts[1], where) for key, item in value.items()}
    if hint is float and type(value) in (int, float) and abs(value) < math.inf:
        return float(value)
    if origin is None and (
        isinstance(value, hint)
        if hint not in (int, str, bool, float)
        else hint is not float and type(value) is hint
    ):
        return value
    raise TypeError(f"{where} is {reprlib.repr(value)}, expected {_said(hint)}")


def _fit_any(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    for hint in hints:
        try:
            return _fit(value, hint, where)
        except TypeError:
            continue
    raise TypeError(f"{where} is {reprlib.repr(value)}, expected {' or '.join(map(_said, hints))}")


def _said(hint: Any) -> str:
    """A type in words that a reader of TOML or JSON knows."""
    words = {
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
        NoneType: "nothing",
        Any: "anything",
    }
    if hint in words:
        return words[hint]
    if get_origin(hint) is tuple:
        return f"a list, each of {_said(get_args(hint)[0])}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_said, get_args(hint)))
    return "a table" if get_origin(hint) is Mapping else hint.__name__
