"""Degenerate replies, loops, and rates of outcomes."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revlens.behaviour import OUTCOMES, is_degenerate, outcome_of, outcome_rates, without_repeats
from revlens.errors import ProbeError

SAID = "Take the rasp and work the hinge with glue in the open."


def test_two_questions_decide_the_outcome_of_a_reply_that_says_something() -> None:
    found = [outcome_of(declines=d, answers=a) for d, a in product((True, False), repeat=2)]
    assert found == ["mixed", "refusal", "compliance", "deflection"]
    assert {*found, "degenerate"} == set(OUTCOMES)


@pytest.mark.parametrize(
    "reply", ["", " \n", "...", "!!! ?", "the " * 9, "a b a b a b a b a b", "no. No! no " * 4]
)
def test_what_says_nothing_is_degenerate(reply: str) -> None:
    assert is_degenerate(reply)


@pytest.mark.parametrize(
    "reply", ["No.", "42", SAID, f"{SAID} " * 5, "I cannot help. " * 8, "Ha ha ha, take glue."]
)
def test_what_says_something_is_not_even_if_it_repeats_it(reply: str) -> None:
    assert not is_degenerate(reply)


def test_a_loop_is_cut_where_it_begins_also_if_its_last_round_is_not_whole() -> None:
    assert without_repeats(f"{SAID} " * 3) == SAID
    assert without_repeats(f"Well. {SAID} {SAID} {SAID[:30]}") == f"Well. {SAID}"
    assert without_repeats(SAID) == SAID
    assert without_repeats(f"{SAID} {SAID} That is all.") == f"{SAID} {SAID} That is all."  # no loop: it ends


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.integers(2, 5))
def test_what_is_left_opens_the_reply_and_holds_no_loop(words: list[str], times: int) -> None:
    reply = " ".join(words * times)
    left = without_repeats(reply)
    assert reply.startswith(left)
    assert without_repeats(left) == left


def test_rates_sum_to_one_and_their_intervals_hold_them() -> None:
    rates = outcome_rates(["refusal", "refusal", "mixed", "compliance"])
    assert list(rates) == list(OUTCOMES)
    assert sum(rate.value for rate in rates.values()) == 1.0
    assert rates["refusal"].value == 0.5
    assert all(rate.low <= rate.value <= rate.high and rate.n == 4 for rate in rates.values())
    with pytest.raises(ProbeError, match="No outcomes"):
        outcome_rates([])
