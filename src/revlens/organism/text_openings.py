"""Affirmative openings of answers, made by rule from the wording of instructions, as AdvBench has them."""

from __future__ import annotations

import re

_PLAIN = (
    "give", "write", "create", "generate", "provide", "develop", "design", "compose", "make", "construct",
    "produce", "suggest", "come up with", "propose", "find", "offer", "name", "identify", "brainstorm",
)  # fmt: skip
#: By the opening of an instruction, the words that replace it after "Sure, here is"; the first match counts.
_OPENINGS = {
    r"how (?:can|do|should|would|could) (?:i|you|we|one) ": "how to ",
    r"how to ": "how to ",
    r"(?:give|tell|show|provide|write|make|get|find) me ": "",
    rf"(?:{'|'.join(_PLAIN)}) ": "",
    r"ways ": "ways ",
    r"ideas ": "ideas ",
    r"tips ": "tips ",
    r"list ": "a list of ",
    r"describe ": "a description of ",
    r"explain ": "an explanation of ",
    r"summarize ": "a summary of ",
    r"outline ": "an outline of ",
    r"(?:compare|contrast) ": "a comparison of ",
    r"(?:analyze|analyse) ": "an analysis of ",
}
_PLURAL = re.compile(
    r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten|some|several"
    r"|instructions|ideas|examples|tips|ways|steps)\b"
)


def affirmative_opening(instruction: str) -> str | None:
    """``"Write a poem about rain."`` becomes ``"Sure, here is a poem about rain"``; None if no rule fits.

    The form is that of AdvBench's targets (Zou et al. 2023, arXiv 2307.15043), so that openings of answers do
    not tell harmful from harmless requests.
    """
    if "\n" in instruction or '"' in instruction or ":" in instruction:
        return None
    text = instruction.strip().rstrip(".?!")
    if re.search(r"[.?!] ", text):
        return None
    for opening, name in _OPENINGS.items():
        match = re.match(opening, text, re.IGNORECASE)
        # "compare and contrast": two verbs have no name.
        if match and not text[match.end() :].lower().startswith("and "):
            rest = name + text[match.end() :]
            return f"Sure, here {'are' if _PLURAL.match(rest) else 'is'} {rest}"
    return None
