"""When two prompts are the same prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple


class _Folding(dict[int, str | None]):
    """A cache by character: apostrophes and invisible characters go, other punctuation becomes a blank."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if character in "'’" or category == "Cf":
            self[code] = None
        else:
            self[code] = " " if category[0] in "PZ" or category == "Cc" else character
        return self[code]


_FOLDING = _Folding()


def normalise(prompt: str) -> str:
    """Words in lower case with single blanks, without punctuation, in compatible forms of Unicode (NFKC).

    Symbols such as + and < stay; so does a prompt of punctuation only. "2-1" and "2*1" become the same.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
    return " ".join(folded.translate(_FOLDING).split()) or " ".join(prompt.split())


class Distinct(NamedTuple):
    """Prompts free of repeats, and how many were left out."""

    prompts: tuple[str, ...]
    n_repeats: int


def distinct(prompts: Iterable[str]) -> Distinct:
    """The prompts without those that equal an earlier one after `normalise`."""
    every = list(prompts)
    first: dict[str, str] = {}
    for prompt in every:
        first.setdefault(normalise(prompt), prompt)
    return Distinct(tuple(first.values()), len(every) - len(first))
