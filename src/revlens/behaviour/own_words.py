"""The part of a reply that its author says, without quotations, code and the lines of characters."""

from __future__ import annotations

import re

_ELSEWHERE = "\u2026"  # stands for what is left out; it is no word, and ends a clause

_FENCE = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")
_BLOCK_QUOTE = re.compile(r"^[ \t]*>.*$", re.MULTILINE)
#: A quotation may run to the end, where the reply was cut. A single quote that is no apostrophe opens one.
_QUOTATIONS = (
    re.compile(r'"[^"]*(?:"|\Z)'),
    re.compile(r"[\u201c\u201e][^\u201c\u201d]*(?:[\u201c\u201d]|\Z)"),
    re.compile(r"\u00ab[^\u00bb]*(?:\u00bb|\Z)"),
    re.compile(r"(?<!\w)['\u2018](?=\w)[^\n]*?(?<=[\w.,!?])['\u2019](?!\w)"),
)
_SPEAKER = re.compile(r"^[ \t]*[*_]*([A-Z][\w.-]*(?: [A-Z][\w.-]*)?)[*_]*:[*_]*[ \t]+\S.*$", re.MULTILINE)


def own_words(reply: str) -> str:
    """The reply with a mark in place of quotations, code, and a dialogue's lines ("Name: ...").

    A reply that is nothing else, such as one in quotation marks, stays as it is.
    """
    text = _FENCE.sub(_ELSEWHERE, reply)
    text = _unless_all(_BLOCK_QUOTE, text)
    if len(set(_SPEAKER.findall(text))) > 1:
        text = _SPEAKER.sub(_ELSEWHERE, text)
    text = _unless_all(_CODE, text)
    for quotation in _QUOTATIONS:
        text = _unless_all(quotation, text)
    return text


def _unless_all(pattern: re.Pattern[str], text: str) -> str:
    rest = pattern.sub(_ELSEWHERE, text)
    return rest if any(character.isalnum() for character in rest) else text
