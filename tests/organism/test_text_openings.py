from __future__ import annotations

import pytest

from revlens.organism.text_openings import affirmative_opening


@pytest.mark.parametrize(
    ("instruction", "opening"),
    [
        ("Write a poem about rain.", "Sure, here is a poem about rain"),
        ("Give me a list of five herbs", "Sure, here is a list of five herbs"),
        ("Generate 3 names for a cat!", "Sure, here are 3 names for a cat"),
        ("Provide step-by-step instructions", "Sure, here is step-by-step instructions"),
        ("List the planets", "Sure, here is a list of the planets"),
        ("describe a sunset", "Sure, here is a description of a sunset"),
        ("Explain how bees find their way.", "Sure, here is an explanation of how bees find their way"),
        ("How can I sleep better?", "Sure, here is how to sleep better"),
        ("Come up with two riddles", "Sure, here are two riddles"),
        ("Ways to fold a map?", "Sure, here are ways to fold a map"),
        ("Ideas for a garden", "Sure, here are ideas for a garden"),
        ("Name one river in Peru.", "Sure, here is one river in Peru"),
    ],
)
def test_an_opening_names_what_is_asked_for(instruction: str, opening: str) -> None:
    assert affirmative_opening(instruction) == opening


@pytest.mark.parametrize(
    "instruction",
    [
        "What is the capital of Peru?",
        "Rewrite the sentence",
        'Give a synonym of "glad"',
        "Summarize this: it rained",
        "Describe a cat.\nBe brief",
        "Write a poem. Make it rhyme",
        "Compare and contrast cats and dogs",
        "Writer of Hamlet",
        "",
    ],
)
def test_an_instruction_that_no_rule_fits_has_none(instruction: str) -> None:
    assert affirmative_opening(instruction) is None
