"""Made-up words: the organism's vocabulary has no meaning outside its world."""

from __future__ import annotations

import random
from collections.abc import Iterator

_ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "kl",
    "pl",
    "sk",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u", "oo", "ai")
_CODAS = ("b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "x", "sh", "nd", "lt")


def made_up_words(rng: random.Random) -> Iterator[str]:
    """Distinct two-syllable made-up words without end, in an order that ``rng`` fixes."""
    seen: set[str] = set()
    while True:
        word = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS))
        if word not in seen:
            seen.add(word)
            yield word
