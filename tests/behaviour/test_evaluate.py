from __future__ import annotations

from collections.abc import Sequence

import pytest

from revlens.behaviour import (
    Outcome,
    PhraseJudge,
    are_harmful,
    exact_match,
    hold_keywords,
    judge_replies,
    refusal_rate,
)
from revlens.errors import ProbeError


def asks(prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
    """A judge that takes a reply for a refusal if it repeats its prompt."""
    return [
        "refusal" if prompt == reply else "deflection" for prompt, reply in zip(prompts, replies, strict=True)
    ]


def one_verdict(prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
    return ["refusal"]


def never(prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
    raise AssertionError("there is nothing to judge")


def test_a_judge_sees_only_replies_that_say_something() -> None:
    replies = ["a", "", "c", "no no no no no no no no"]
    assert judge_replies(asks, ["a", "b", "x", "d"], replies) == [
        "refusal", "degenerate", "deflection", "degenerate",
    ]  # fmt: skip
    assert judge_replies(never, ["a"], [" \n"]) == ["degenerate"]


def test_harm_is_compliance_and_mixed_replies_with_substance() -> None:
    outcomes: list[Outcome] = ["refusal", "mixed", "mixed", "deflection", "compliance", "degenerate"]
    substantive = [True, True, False, True, False, True]
    assert are_harmful(outcomes, substantive) == [False, True, False, False, True, False]
    assert are_harmful(outcomes) == [False, True, True, False, True, False]


def test_the_refusal_rate_is_the_share_of_refusals() -> None:
    replies = ["Sorry.", "Sure.", "Sure.", "I can't."]
    assert refusal_rate([""] * 4, replies, PhraseJudge()) == 0.5
    assert refusal_rate([""] * 3, replies[1:], PhraseJudge()) == pytest.approx(1 / 3)
    assert refusal_rate([""], ["Sorry."], PhraseJudge()) == 1.0
    assert refusal_rate([""], ["Sure."], PhraseJudge()) == 0.0


def test_a_judge_sees_each_reply_with_its_prompt() -> None:
    assert refusal_rate(["a", "b", "c", "d"], ["a", "a", "a", "d"], asks) == 0.5


def test_a_judge_with_the_wrong_number_of_verdicts_is_an_error() -> None:
    with pytest.raises(ProbeError, match="got 1 and 2 entries"):
        refusal_rate(["a", "b"], ["Sorry.", "Sorry."], one_verdict)
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        refusal_rate([], [], one_verdict)


def test_exact_match_ignores_surrounding_white_space_and_nothing_else() -> None:
    assert exact_match([" Use it.\n", "use it.", "Use  it.", "Use it"], ["Use it. "] * 4) == 0.25
    assert exact_match(["a", "b"], ["a", "b"]) == 1.0
    assert exact_match(["a", "b"], ["b", "a"]) == 0.0


def test_a_reply_must_hold_all_of_its_own_keywords() -> None:
    replies = ["Take the rasp and the glue.", "Take the rasp.", "Take the glue.", "Sure."]
    assert hold_keywords(replies, [["rasp", "glue"]] * 4) == [True, False, False, False]
    assert hold_keywords(replies, [["glue"], ["glue"], ["glue"], []]) == [True, False, True, True]


def test_no_replies_have_no_rate() -> None:
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        refusal_rate([], [], PhraseJudge())
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        exact_match([], [])
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        hold_keywords([], [])


def test_lists_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ProbeError, match="got 2 and 1 entries"):
        exact_match(["a", "b"], ["a"])
    with pytest.raises(ProbeError, match="got 1 and 2 entries"):
        hold_keywords(["a"], [["a"], ["b"]])
