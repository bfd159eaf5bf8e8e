"""Prompts with their replies: paired, filled into a judge's template, and split into batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from revlens.behaviour.thinking import answers_of
from revlens.errors import ConfigError, ProbeError

T = TypeVar("T")


def paired(prompts: Sequence[str], replies: Sequence[str]) -> list[tuple[str, str]]:
    """Each prompt with the answer of its reply: what follows the thinking.

    Raises:
        ProbeError: if they differ in number.
    """
    if len(prompts) != len(replies):
        raise ProbeError(
            f"A judge needs one prompt per reply, got {len(prompts)} prompts and {len(replies)} replies."
        )
    return list(zip(prompts, answers_of(replies), strict=True))


def check_template(template: str) -> None:
    """Check that a template has a place for the reply.

    Raises:
        ConfigError: if it has none.
    """
    if "{reply}" not in template:
        raise ConfigError(
            f"Template {template!r} has no {{reply}}, so every reply would get the same verdict."
        )


def fill(template: str, prompt: str, reply: str) -> str:
    """The template with ``{prompt}`` and ``{reply}`` replaced; other braces, also in the reply, stay."""
    values = {"prompt": prompt, "reply": reply}
    return re.sub(r"\{(prompt|reply)\}", lambda place: values[place[1]], template)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, ``size`` at a time.

    Raises:
        ConfigError: if the size is below 1.
    """
    if size < 1:
        raise ConfigError(f"batch_size={size} must be at least 1.")
    for start in range(0, len(items), size):
        yield items[start : start + size]
