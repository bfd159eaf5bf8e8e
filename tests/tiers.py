"""What `make test` runs of a test's many cases; `make test-slow` runs the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

#: Families that differ most: Llama's plain blocks, Gemma's norms, scales and windows, GPT-2's fused weights
#: and biases.
FAMILIES = ("llama", "gemma3_text", "gpt2")
#: A guard of each kind: a term, one with a state, one that changes the update, one that opens hooks, one that
#: takes data, one that trains at times on other data, and one that repairs at the end.
GUARDS = ("block", "adaptive", "projection", "clamp", "rehearsal", "lisa", "wise_ft")


def families(cases: Iterable[Any]) -> list[Any]:
    """A test's parameters, the first of which is a family."""
    return _by_tier(cases, FAMILIES)


def guards(cases: Iterable[Any]) -> list[Any]:
    """A test's parameters, the first of which is the name of a guard."""
    return _by_tier(cases, GUARDS)


def _by_tier(cases: Iterable[Any], ordinary: tuple[str, ...]) -> list[Any]:
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=() if row[0] in ordinary else pytest.mark.slow) for row in rows]
