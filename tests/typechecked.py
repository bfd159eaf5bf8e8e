"""The check of types and shapes at run time, by beartype, that `pytest` applies to all of revlens.

A function within a function is made anew at each call of the outer one, and checking it would take
milliseconds each time, in all a quarter of the time that tests take. Mypy sees it.
"""

from __future__ import annotations

from typing import Any

from beartype import beartype


def typechecked(function: Any) -> Any:
    """What jaxtyping applies to each function and method."""
    return function if "<locals>" in function.__qualname__ else beartype(function)
