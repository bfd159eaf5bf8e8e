"""Arguments and dates in chat templates, and how a turn ends."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from revlens.chat_templates import end_of_turn, pinned, reads_clock, render
from revlens.errors import ConfigError
from revlens.prompts import encode_prompts
from templates import template, tokenizer_with

CHAT = [{"role": "user", "content": "Hi."}]
THINKS = "{%- if enable_thinking is defined and enable_thinking is false -%}<think>\n\n</think>{%- endif -%}"
#: What checkpoints write at the end of a turn, and the tokens that end an answer.
ENDS: dict[str, tuple[str, list[str]]] = {
    "another token than the tokenizer's": ("'<|eot|>'", ["<|eot|>"]),
    "a line end after it, as ChatML": ("'<|eot|>\\n'", ["<|eot|>"]),
    "a space before it, as Llama 2": ("' <|eot|>'", ["Ġ", "<|eot|>"]),
    "the tokenizer's own": ("'<|end|>'", ["<|end|>"]),
    "two of them, as Phi-3": ("'<|eot|>\\n<|end|>'", ["<|eot|>"]),
    "nothing": ("''", ["<|end|>"]),
    "a line end alone": ("'\\n'", ["<|end|>"]),
    "text that is no token": ("'#stop\\n'", ["#", "s", "t", "o", "p", "<|end|>"]),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_turn_ends_with_what_the_template_writes(name: str) -> None:
    end, expected = ENDS[name]
    tokenizer = tokenizer_with(template(end))
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer).ids) == expected
    assert end_of_turn(tokenizer).text == ("#stop" if name.startswith("text") else "")


def test_a_template_for_prompts_alone_ends_a_turn_with_the_end_of_sequence() -> None:
    tokenizer = tokenizer_with("{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}x")
    assert end_of_turn(tokenizer).ids == [tokenizer.eos_token_id]
    tokenizer.eos_token = None
    assert end_of_turn(tokenizer).ids == []


@pytest.mark.parametrize(
    "value", [False, True, None, 3, 0.5, "two 'words' \n{% x %} \U0001f600", [1, "a"], {"a": [True]}]
)
def test_pinned_arguments_are_those_that_a_call_would_give(value: Any) -> None:
    tokenizer = tokenizer_with("\n{{ extra | tojson }}" + template("'<|eot|>'"))
    (by_call,) = render(tokenizer, [CHAT], template_kwargs={"extra": value})
    assert render(pinned(tokenizer, template_kwargs={"extra": value}), [CHAT]) == [by_call]
    other = pinned(tokenizer, template_kwargs={"extra": "other"})
    assert render(other, [CHAT], template_kwargs={"extra": value}) == [by_call]  # a call goes first


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%Y-%m-%d", "%A, %B %-d", "%H:%M", "100%% of %y, day %j", "no date", "%d%m%d"]
)
def test_a_pinned_date_is_what_the_clock_would_say_at_midnight(form: str) -> None:
    tokenizer = tokenizer_with("{% set now = strftime_now(" + repr(form) + ") %}{{ now }}")
    assert reads_clock(tokenizer.chat_template)
    (text,) = render(pinned(tokenizer, date="2026-01-05"), [CHAT])
    assert text == datetime.datetime(2026, 1, 5).strftime(form)
    (text,) = render(tokenizer, [CHAT])
    assert text == datetime.datetime.now().strftime(form) or "%H" in form


def test_named_templates_are_pinned_each() -> None:
    tokenizer = tokenizer_with("")
    named: Any = {"default": "{{ x }}" + template("''"), "tools": "{{ x }}"}
    tokenizer.chat_template = named
    assert render(pinned(tokenizer, template_kwargs={"x": 7}), [CHAT])[0].startswith("7")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"enable_thinkin": False}, "does not read .*enable_thinkin=False would change nothing"),
        ({"messages": []}, "'messages' is no argument of a chat template"),
        ({"add_generation_prompt": False}, "no argument of a chat template"),
        ({"enable_thinking": {1, 2}}, "expected text, numbers, true or false"),
        ({"enable_thinking": float("nan")}, "expected text, numbers, true or false"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(kwargs: dict[str, Any], message: str) -> None:
    tokenizer = tokenizer_with(template("'<|eot|>'", THINKS))
    with pytest.raises(ConfigError, match=message):
        encode_prompts(tokenizer, ["Hi."], template_kwargs=kwargs)
    with pytest.raises(ConfigError, match=message):
        pinned(tokenizer, template_kwargs=kwargs)


def test_the_advice_of_template_errors_works() -> None:
    tokenizer = tokenizer_with("")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="Set tokenizer.chat_template"):
        encode_prompts(tokenizer, ["Hi."])
    named: Any = {"b": template("''"), "a": template("'<|eot|>'")}
    tokenizer.chat_template = named
    with pytest.raises(ConfigError, match=r"such as tokenizer\.chat_template\['a'\]"):
        encode_prompts(tokenizer, ["Hi."])
    tokenizer.chat_template = named["a"]
    assert tokenizer.decode(encode_prompts(tokenizer, ["Hi."])[0]) == "<|user|>Hi.<|eot|><|assistant|>"


@pytest.mark.parametrize("date", ["2026-1-5", "5 January", "2026-02-30", ""])
def test_a_date_that_is_none_is_refused(date: str) -> None:
    with pytest.raises(ConfigError, match="of the form 2026-01-31"):
        pinned(tokenizer_with("{{ strftime_now('%d') }}"), date=date)
