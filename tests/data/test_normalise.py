from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revlens.data import distinct, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I do it?", "how do i DO it"),
        ("How do I do it?", "  How\tdo\nI   do it ?! "),
        ("Don't stop", "Don’t stop"),
        ("Don't stop", "Dont stop"),
        ("step-by-step", "Step by step"),
        ("“Quoted”", '"quoted"'),
        ("caf\u00e9", "cafe\u0301"),
        ("ﬁle №１", "file No1"),
        ("Straße", "STRASSE"),
        ("so\u00adft hy\u200bphen", "soft hyphen"),
        ("a\u00a0b", "a b"),
    ],
)
def test_the_same_prompt(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Open it", "Opened it"),
        ("a b", "ab"),
        ("5+3", "5 3"),
        ("a < b", "a > b"),
        ("???", "!"),
        ("हिंदी", "हद"),
        ("1.5", "15"),
        ("", "?"),
    ],
)
def test_different_prompts(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@settings(deadline=None)
@given(st.text())
def test_unicode_form_and_spacing_never_matter(text: str) -> None:
    assert normalise(text) == normalise(unicodedata.normalize("NFD", text)) == normalise(f" {text}\n")


def test_distinct_keeps_the_first_and_counts_the_rest() -> None:
    assert distinct(["B?", "a", "b", "A.", "b!", "c"]) == (("B?", "a", "c"), 3)
    assert distinct(iter([])) == ((), 0)
