"""What a model thinks before it answers, told from the answer by the markers of its family."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

#: How thinking opens and closes, by family.
MARKERS: tuple[tuple[str, str], ...] = (
    (
        "<think>",
        "</think>",
    ),  # DeepSeek-R1, Qwen 3 and QwQ, SmolLM3, Phi-4-reasoning, GLM, OLMo 3, Nemotron, ...
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<unused94>thought", "<unused95>"),  # MedGemma
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|THINK_START|>", "<|THINK_END|>"),  # Step-Audio
    ("[unused16]", "[unused17]"),  # openPangu
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi-VL-Thinking
    ("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
#: Tokens of which markers are made, and which must not be lost with the special tokens of a reply.
MARKER_TOKENS: tuple[str, ...] = (
    *(text for pair in MARKERS for text in pair if " " not in text),
    *("<|channel|>", "<|message|>", "<|channel>", "<unused94>"),
)
#: Around an answer that follows thinking.
_AROUND = re.compile(
    r"^\s*(?:<\|begin_of_solution\|>|<\|START_RESPONSE\|>|<response>|<answer>)|"
    r"(?:<\|end_of_solution\|>|<\|END_RESPONSE\|>|</response>|</answer>)\s*$"
)


class Reply(NamedTuple):
    """A reply in its two parts.

    Attributes:
        thinking: without its markers; empty where there is none.
        answer: what follows; the whole reply where there is no thinking.
        truncated: whether it thinks and never comes to an answer, as when generation was cut inside the
            thinking.
    """

    thinking: str
    answer: str
    truncated: bool


def split_thinking(reply: str) -> Reply:
    """What a reply thinks, and what it answers.

    Thinking lies between the markers of a pair of `MARKERS`, in any case; before a closing one that nothing
    opens (the chat template may have opened it); or after an opening one at the start that nothing closes. A
    marker made of plain words counts only where it opens.
    """
    if not _ANY.search(reply):  # as most replies, which are read several times
        return Reply("", reply, False)
    thoughts: list[str] = []

    def take(match: re.Match[str]) -> str:
        thoughts.append(match[1])
        return ""

    answer, found, is_open = reply, False, False
    if harmony := _HARMONY_WITHOUT_TOKENS.match(reply):
        thoughts, answer, found = [harmony[1]], harmony[2], True
    for opening, closing in _PATTERNS:
        answer, n = re.subn(f"{opening}(.*?){closing}", take, answer, flags=_FLAGS)
        found |= n > 0
    for opening, closing in _PATTERNS:
        ends = [] if " " in closing else list(re.finditer(closing, answer, _FLAGS))
        if ends and not re.search(opening, answer[: ends[-1].start()], _FLAGS):
            thoughts.append(re.sub(closing, "", answer[: ends[-1].start()], flags=_FLAGS))
            answer, found = answer[ends[-1].end() :], True
    for opening, _ in _PATTERNS:
        if start := re.match(rf"\s*{opening}", answer, _FLAGS):
            thoughts.append(answer[start.end() :])
            answer, found, is_open = "", True, True
    if not found:
        return Reply("", reply, False)
    answer = _AROUND.sub("", answer).strip()
    thinking = "\n".join(thought.strip() for thought in thoughts if thought.strip())
    return Reply(thinking, answer, not answer and (is_open or bool(thinking)))


def answers_of(replies: Sequence[str]) -> list[str]:
    """The answer of each reply, without thinking."""
    return [split_thinking(reply).answer for reply in replies]


def is_opened_by(opening: str) -> str:
    """The marker with which a chat template opens the thinking itself, given what it writes before an answer.

    Empty if it opens none.
    """
    end = opening.rstrip().casefold()
    return next((start for start, _ in MARKERS if end.endswith(start.casefold())), "")


_FLAGS = re.IGNORECASE | re.DOTALL
#: gpt-oss, where special tokens were dropped in decoding.
_HARMONY_WITHOUT_TOKENS = re.compile(r"\s*analysis(.*?)assistantfinal(.*)", re.DOTALL)
_PATTERNS = [(re.escape(opening), re.escape(closing)) for opening, closing in MARKERS]
#: What a reply with thinking holds: a marker, or the opening of gpt-oss without tokens.
_ANY = re.compile("|".join(["assistantfinal", *(marker for pair in _PATTERNS for marker in pair)]), _FLAGS)
