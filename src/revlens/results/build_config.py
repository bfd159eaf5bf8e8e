"""Build a configuration from plain values; pydantic checks them against the dataclass's types."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, NotRequired, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

_Kind = TypeVar("_Kind")

#: No "5" or true for 5, no NaN or infinity, no unknown key; a whole number is taken for a decimal one.
_RULES = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
#: What pydantic's errors expect, in words that a reader of TOML or JSON knows.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "a table",
    "dict_type": "a table",
    "none_required": "nothing",
}


def build_config(kind: type[_Kind], settings: Mapping[str, Any]) -> _Kind:
    """A dataclass with these settings, each of the type that its field declares.

    Args:
        kind: a dataclass whose fields hold plain values, tuples, mappings and other dataclasses.
        settings: by field; tuples for lists, and nested dataclasses that are built already.

    Raises:
        TypeError: if a setting is unknown, missing or of another type; says which, and what is expected.
        ConfigError: as the dataclass itself.
    """
    try:
        checked = _checker(kind).validate_python(dict(settings))  # type: ignore[arg-type]
    except ValidationError as error:
        raise TypeError(_explained(error.errors(), settings)) from error
    return kind(**checked)


@cache
def _checker(kind: Any) -> TypeAdapter:
    """A check of the fields as a table. Of the dataclass itself, pydantic would wrap the ConfigErrors."""
    hints = get_type_hints(kind)
    table = {
        field.name: hints[field.name]
        if field.default is MISSING and field.default_factory is MISSING
        else NotRequired[hints[field.name]]
        for field in fields(kind)
    }
    return TypeAdapter(with_config(_RULES)(TypedDict(kind.__name__, table)))  # type: ignore[operator]


def _explained(errors: list[ErrorDetails], settings: Mapping[str, Any]) -> str:
    """The first error, as the beginning of a sentence. Errors of a union's branches count as one."""
    first = errors[0]
    if first["type"] == "missing":
        return f"{first['loc'][0]} is missing"
    if first["type"] == "extra_forbidden":
        return f"there is no setting {first['loc'][0]!r}"
    place = _place(first["loc"], settings)
    expected = dict.fromkeys(_expected(error) for error in errors if _place(error["loc"], settings) == place)
    return f"{place} is {reprlib.repr(first['input'])}, expected {' or '.join(expected)}"


def _place(location: tuple[int | str, ...], value: Any) -> str:
    """Where an error is, as ``grid.block[0]``. Pydantic's location also names the branches of unions."""
    place = ""
    for part in location:
        if isinstance(value, Mapping) and part in value:
            place += f".{part}"
        elif isinstance(value, tuple) and isinstance(part, int):
            place += f"[{part}]"
        else:
            break
        value = value[part]
    return place.removeprefix(".")


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "dataclass_exact_type":
        return str(error["ctx"]["class_name"])
    return _EXPECTED.get(error["type"], error["msg"])
