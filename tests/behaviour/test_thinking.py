"""Thinking is told from the answer, in what models of all families write, and in all that judges."""

from __future__ import annotations

import pytest

from revlens.behaviour import (
    PhraseJudge,
    check_answered,
    count_unanswered,
    exact_match,
    generate,
    hold_keywords,
    judge_replies,
    refusal_rate,
    split_thinking,
)
from revlens.behaviour.thinking import MARKERS
from revlens.chat_templates import pinned
from revlens.errors import ProbeError
from templates import bridge_with, template, tokenizer_with, writes


@pytest.mark.parametrize(("opening", "closing"), MARKERS)
def test_what_follows_the_thinking_is_the_answer(opening: str, closing: str) -> None:
    thought = "The user asks. I can't help with that?\nYes, I can."
    assert split_thinking(f"{opening}\n{thought}\n{closing}\n\nSure.") == (thought, "Sure.", False)
    assert split_thinking(f"{opening}{closing}\n\nSure.") == ("", "Sure.", False)
    assert split_thinking(f" {opening}\n{thought}") == (thought, "", True)
    assert split_thinking(f"{opening}{thought}{closing}\n") == (thought, "", True)
    assert split_thinking(opening) == ("", "", True)
    if " " not in closing:  # where the template opened it
        assert split_thinking(f"{thought}{closing}Sure.") == (thought, "Sure.", False)


@pytest.mark.parametrize(
    "reply", ["", "Sure.", " I can't. ", "Let me think: yes.", "2 < 3, [THE END]", "Here is my response: no."]
)
def test_a_reply_without_thinking_is_its_answer(reply: str) -> None:
    assert split_thinking(reply) == ("", reply, False)


def test_odd_thinking() -> None:
    assert split_thinking("<think>a<think>b</think>c</think>d").answer == "d"
    assert split_thinking("<think>a</think>b<think>c</think>d").answer == "bd"
    assert split_thinking("<THINK>a</THINK>d").answer == "d"
    assert split_thinking("<think>a</think><response>d</response>").answer == "d"
    assert split_thinking("analysisWe must refuse.assistantfinalNo.") == ("We must refuse.", "No.", False)


REPLIES = {
    "<think>This is about harm. What do I say?</think>I can't help with that.": True,
    "<think>I can't help with that... or can I?</think>Sure, take the key.": False,
    "I'm sorry, but no.": True,
    "Take the key.": False,
}


def test_judges_read_the_answer() -> None:
    replies = list(REPLIES)
    outcomes = ["refusal" if refused else "compliance" for refused in REPLIES.values()]
    assert PhraseJudge()([""] * 4, replies) == outcomes
    cut = ["<think>I can't help with", "<think>"]
    assert count_unanswered(replies + cut) == 2
    assert judge_replies(PhraseJudge(), [""] * 6, cut + replies) == ["degenerate"] * 2 + outcomes
    assert refusal_rate([""] * 6, cut + replies, PhraseJudge()) == pytest.approx(2 / 6)
    assert hold_keywords(replies[:2] + cut, [["key"]] * 4) == [False, True, False, False]
    assert exact_match(["<think>two and two</think>\n4", "<think>4", "4"], ["4"] * 3) == pytest.approx(2 / 3)
    with pytest.raises(ProbeError, match="All 2 replies end inside .*reply_tokens.*template_kwargs"):
        check_answered(cut)
    check_answered([*cut, "Yes."])


OPENS = (
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
)


@pytest.mark.parametrize("special", [True, False])
def test_a_generated_reply_keeps_its_markers(special: bool) -> None:
    markers = ("<think>", "</think>") if special else ()
    tokenizer = tokenizer_with(template("'<|eot|>'"), ("<|eot|>", *markers))
    bridge = bridge_with(tokenizer)
    text = "<think>hm</think>no<|eot|>"
    writes(bridge, tokenizer(text, add_special_tokens=False)["input_ids"])
    assert generate(bridge, ["Hi."], max_new_tokens=30) == ["<think>hm</think>no"]


def test_a_template_that_opens_the_thinking_is_told_from_one_that_does_not() -> None:
    tokenizer = tokenizer_with(template("'<|eot|>'", OPENS), ("<|eot|>", "<think>", "</think>"))
    ids = tokenizer("I can't", add_special_tokens=False)["input_ids"]
    for kwargs, expected in (({}, True), ({"enable_thinking": False}, False)):
        bridge = bridge_with(tokenizer)
        writes(bridge, ids)
        (reply,) = generate(bridge, ["Hi."], max_new_tokens=len(ids), template_kwargs=kwargs)
        assert split_thinking(reply) == (("I can't", "", True) if expected else ("", "I can't", False))
        bridge = bridge_with(pinned(tokenizer, template_kwargs=kwargs))
        writes(bridge, ids)
        assert generate(bridge, ["Hi."], max_new_tokens=len(ids)) == [reply]
