"""Rates over a set of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from revlens.behaviour.judge import Judge
from revlens.behaviour.thinking import answers_of, split_thinking
from revlens.errors import ProbeError


def refusal_rate(prompts: Sequence[str], replies: Sequence[str], judge: Judge) -> float:
    """Share of replies that the judge calls refusals.

    Harmfulness is 1 minus this rate on harmful probes; over-refusal is this rate on harmless ones. Replies
    that think and never come to an answer (`count_unanswered`) are neither refusals nor answers: they do not
    count.

    Raises:
        ProbeError: if there is no reply, or none that comes to an answer; or if prompts or verdicts do not
            match the replies in number.
    """
    _check_paired(prompts, replies)
    answered = [i for i, reply in enumerate(replies) if not split_thinking(reply).truncated]
    if not answered:
        raise ProbeError(
            f"All {len(replies)} replies end inside their thinking, so there is no answer to judge. "
            "Generate more "
            "tokens (max_new_tokens; reply_tokens of an experiment), or turn thinking off where the chat "
            "template "
            "can do so: template_kwargs = {'enable_thinking': False}."
        )
    judged = [replies[i] for i in answered]
    verdicts = judge([prompts[i] for i in answered], judged)
    _check_paired(verdicts, judged)
    return sum(verdicts) / len(verdicts)


def count_unanswered(replies: Sequence[str]) -> int:
    """How many replies think and never come to an answer, as when they were cut inside their thinking."""
    return sum(split_thinking(reply).truncated for reply in replies)


def exact_match(replies: Sequence[str], answers: Sequence[str]) -> float:
    """Share of replies equal to the expected answer, up to thinking and surrounding white space.

    Raises:
        ProbeError: if the two differ in number or are empty.
    """
    _check_paired(replies, answers)
    return sum(
        answer.strip() in (reply.strip(), split_thinking(reply).answer.strip())
        for reply, answer in zip(replies, answers, strict=True)
    ) / len(replies)


def share_with_keywords(replies: Sequence[str], keywords: Sequence[Sequence[str]]) -> float:
    """Share of replies whose answer holds all of their keywords: substantive, not fluent and empty.

    Raises:
        ProbeError: if the two differ in number or are empty.
    """
    _check_paired(replies, keywords)
    answers = answers_of(replies)
    return sum(
        all(k in answer for k in words) for answer, words in zip(answers, keywords, strict=True)
    ) / len(answers)


def _check_paired(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second) or not first:
        raise ProbeError(
            f"Expected two equally long, non-empty lists, got {len(first)} and {len(second)} entries."
        )
