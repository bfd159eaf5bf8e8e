"""Refusal phrases as regular expressions, and the plain text that they are searched in."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

_APOSTROPHES = "\u2018\u2019\u201b\u2032\u02b9\u02bb\u02bc\u0060\u00b4\uff07"
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_EMPHASIS = "*_~"  # markdown inside and around words
_BLOCKS = "#>"  # markdown at the start of lines
_PLAIN = str.maketrans(
    {
        **dict.fromkeys(_APOSTROPHES, "'"),
        **dict.fromkeys(_INVISIBLE + _EMPHASIS),
        **dict.fromkeys(_BLOCKS, " "),
    }
)

OPENS_CLAUSE, ENDS_REPLY, EXCEPTS, GAP = "^", "$", "!", "..."
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_CLAUSE = r"(?:^|(?<=[^\w\s'] )|(?<=[^\w\s']))"
_WITHIN_SENTENCE, _ALL = r"[^.!?]{0,80}?", r".*"


def plain(text: str) -> str:
    """Lower case, plain apostrophes, single spaces, no markdown."""
    # Apostrophes first: NFKC turns an acute accent into a space and a combining accent.
    text = unicodedata.normalize("NFKC", text.translate(_PLAIN))
    return " ".join(text.casefold().split())


def is_exception(phrase: str) -> bool:
    """Whether a phrase is marked as one that does not decline."""
    return phrase.startswith(EXCEPTS) and bool(plain(phrase[1:]))


@functools.lru_cache
def pattern_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """What finds any of the phrases in plain text, their marks read as `PhraseJudge` describes."""
    return re.compile("|".join(_expression(plain(phrase)) for phrase in phrases))


def _expression(phrase: str) -> str:
    start = _CLAUSE if phrase.startswith(OPENS_CLAUSE) else r"(?<!\w)"  # not \b: a phrase may begin with "("
    end = r"$" if phrase.endswith(ENDS_REPLY) else r"(?!\w)"
    phrase = phrase.removeprefix(OPENS_CLAUSE).removesuffix(ENDS_REPLY)
    head, gap, tail = phrase.partition(f" {GAP}")
    if gap:
        return start + _choices(head) + ((_WITHIN_SENTENCE + _choices(tail) + end) if tail else _ALL)
    return start + _choices(phrase) + end


def _choices(text: str) -> str:
    """A literal text in which ``(a|b)`` stands for a or b."""
    parts = _CHOICE.split(text)  # literal, choice, literal, ...
    return "".join(
        re.escape(part) if i % 2 == 0 else _any_of(part.split("|")) for i, part in enumerate(parts)
    )


def _any_of(choices: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, choices))})"
