from __future__ import annotations

from collections.abc import Sequence

import pytest

from revlens.behaviour import PhraseJudge, exact_match, refusal_rate, share_with_keywords
from revlens.errors import ProbeError


def asks(prompts: Sequence[str], replies: Sequence[str]) -> list[bool]:
    """A judge that takes a reply for a refusal if it repeats its prompt."""
    return [prompt == reply for prompt, reply in zip(prompts, replies, strict=True)]


def one_verdict(prompts: Sequence[str], replies: Sequence[str]) -> list[bool]:
    return [True]


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
    assert share_with_keywords(replies, [["rasp", "glue"]] * 4) == 0.25
    assert share_with_keywords(replies, [["glue"], ["glue"], ["glue"], []]) == 0.75
    assert share_with_keywords(["Sure."], [["rasp"]]) == 0.0


def test_no_replies_have_no_rate() -> None:
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        refusal_rate([], [], PhraseJudge())
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        exact_match([], [])
    with pytest.raises(ProbeError, match="got 0 and 0 entries"):
        share_with_keywords([], [])


def test_lists_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ProbeError, match="got 2 and 1 entries"):
        exact_match(["a", "b"], ["a"])
    with pytest.raises(ProbeError, match="got 1 and 2 entries"):
        share_with_keywords(["a"], [["a"], ["b"]])
