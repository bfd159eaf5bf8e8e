"""Strategies for values as users, editors and attackers write them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

#: Text that breaks other programs.
ODD_TEXT = st.sampled_from(
    [
        "", " ", "\t", "0", "-1", "null", "true", "NaN", "../../etc/passwd", "/dev/zero", "~", "~root", "*",
        "**/*", "[", "a" * 5_000, "\u2028", "\ufeffa", "\u202ea", "e\u0301", "\ufb01", "\u0130",
        "\U0001f600", "{{ 1 }}", "<script>", "--seeds", "a\nb", "a\r\nb", "'", '"', "\\", "%s",
    ]
)  # fmt: skip
TEXT = ODD_TEXT | st.text(max_size=20)
NUMBERS = st.sampled_from(
    [
        0,
        1,
        -1,
        2,
        2**31,
        2**63,
        10**30,
        -(10**30),
        0.0,
        -0.0,
        0.5,
        1e-320,
        1e308,
        math.inf,
        -math.inf,
        math.nan,
    ]
) | st.integers(-5, 200)
#: What JSON can hold.
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
#: What YAML and TOML can hold as well.
DATED = (
    PLAIN
    | st.dates(datetime.date(1, 1, 1))
    | st.datetimes()
    | st.dictionaries(st.integers(0, 9), PLAIN, max_size=2)
)


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to the parts of a nested value, without the empty path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        found
        for key, item in items
        for found in ([*above, key], *paths(item, (*above, key)))
        for found in (tuple(found),)
    ]


def with_value(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy with ``change(container, key)`` applied to the part at a path."""
    changed = deepcopy(value)
    container = changed
    for key in path[:-1]:
        container = container[key]
    change(container, path[-1])
    return changed


def part_of(value: Any, path: tuple[Any, ...]) -> Any:
    """The part at a path."""
    for key in path:
        value = value[key]
    return value


@st.composite
def mutated(
    draw: st.DrawFn, value: Any, replacements: st.SearchStrategy[Any] = PLAIN
) -> tuple[Any, tuple[Any, ...]]:
    """A nested value with one part replaced, removed or added, and the path to it."""
    path = draw(st.sampled_from(paths(value)))
    new = draw(replacements)
    match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"])):
        case "replace":
            return with_value(value, path, lambda container, key: container.__setitem__(key, new)), path
        case "remove":
            return with_value(value, path, lambda container, key: container.__delitem__(key)), path
    name = draw(TEXT)
    return with_value(
        value,
        path,
        lambda container, key: (
            container.insert(key, new) if isinstance(container, list) else container.__setitem__(name, new)
        ),
    ), path


def same(one: Any, other: Any) -> bool:
    """Equal as configuration values: lists equal tuples, 1 equals 1.0, but 1 does not equal True."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {str(k) for k in one} == {str(k) for k in other} and all(
            same(value, next(v for k, v in other.items() if str(k) == str(key))) for key, value in one.items()
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, int) and abs(other) < 10**300:
        return one == float(other)  # an integer where a float is declared
    return bool(one == other)
