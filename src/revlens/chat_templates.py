"""Chat templates: conversations as text, arguments and a date pinned in a template, and how a turn ends.

A template is a program that comes with a checkpoint. Some read the clock (``strftime_now``), some take
arguments (``enable_thinking``), and each ends a turn in its own way. Whatever renders prompts of one
experiment must do so alike, so arguments and date are written into the template of the tokenizer that all of
them use.
"""

from __future__ import annotations

import copy
import datetime
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError

#: A conversation: messages with ``role`` and ``content``.
Chat = Sequence[Mapping[str, str]]

_OF_THE_CALL = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}
_CLOCK = "strftime_now"
#: What ``strftime`` knows, apart from %s and %c, whose text depends on the machine.
_DIRECTIVES = [f"%{flag}{letter}" for flag in ("", "-") for letter in "aAbBdDeFGHIjklmMnpPrRStTuUVwWxXyYzZ"]
#: What no template writes by itself.
_QUESTION, _ANSWER = "q7Zx", "a7Zx"


def render(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Chat],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> list[str]:
    """Each conversation as text in the tokenizer's chat format.

    Args:
        tokenizer: has a chat template, which may be pinned (`pin_template`).
        chats: conversations.
        template_kwargs: arguments of the template, such as ``{"enable_thinking": False}``; they override
            pinned ones.
        add_generation_prompt: end where an answer begins.

    Raises:
        ConfigError: if there is no chat template, it does not take an argument, or it fails.
    """
    template = tokenizer.chat_template
    if template is None:
        raise ConfigError(
            "The tokenizer has no chat template, so there is no last prompt token to read. "
            "Set tokenizer.chat_template to the format that the aligned model was trained with, or save "
            "that as "
            "chat_template.jinja in the folder of the tokenizer."
        )
    if isinstance(template, dict) and "default" not in template:
        raise ConfigError(
            f"The tokenizer has the chat templates {', '.join(sorted(template))} and none named 'default'. "
            f"Set tokenizer.chat_template to one of them, such as "
            f"tokenizer.chat_template[{min(template)!r}]."
        )
    check_template_kwargs(template, template_kwargs or {})
    try:  # transformers runs templates in jinja's sandbox
        return tokenizer.apply_chat_template(  # type: ignore[return-value]
            [[dict(message) for message in chat] for chat in chats],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **(template_kwargs or {}),
        )
    except _FAILURES as error:
        raise ConfigError(
            f"The tokenizer's chat template cannot be used: {type(error).__name__}: {error}"
        ) from error


_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


def check_template_kwargs(template: Any, template_kwargs: Mapping[str, Any]) -> None:
    """Check that a template reads each argument, and that each is plain data.

    Args:
        template: as a tokenizer or its files have it: text, or several texts.
        template_kwargs: arguments by name.

    Raises:
        ConfigError: if the template does not mention a name (the argument would do nothing), the name
            belongs to `apply_chat_template`, or a value is no JSON.
    """
    for name, value in template_kwargs.items():
        if name in _OF_THE_CALL:
            raise ConfigError(f"{name!r} is no argument of a chat template; revlens sets it. Leave it out.")
        if not name.isidentifier() or not re.search(rf"\b{name}\b", str(template)):
            raise ConfigError(
                f"The chat template does not read {name!r}, so {name}={value!r} would change nothing; "
                "leave it out of template_kwargs, or give a name that the template reads."
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"template_kwargs has {name}={value!r}; expected text, numbers, true or false, lists or "
                "tables "
                f"({error})."
            ) from error


def reads_clock(template: Any) -> bool:
    """Whether a template (text, or several texts) writes the present date or time."""
    return _CLOCK in str(template)


def check_date(date: str) -> str:
    """The date itself.

    Raises:
        ConfigError: if it is not of the form 2026-01-31.
    """
    try:
        if datetime.date.fromisoformat(date).isoformat() == date:
            return date
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"template_date={date!r} must be a date of the form 2026-01-31.")


def today() -> str:
    """The date of today, such as 2026-01-31."""
    return datetime.date.today().isoformat()


def pin_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    date: str | None = None,
) -> None:
    """Write arguments and a date into the tokenizer's chat template, in place.

    Whatever renders with this tokenizer then has these arguments, unless it gives others, and
    ``strftime_now`` reads midnight of that date.

    Args:
        tokenizer: has a chat template, unless there is nothing to write.
        template_kwargs: arguments by name.
        date: such as 2026-01-31; None leaves the clock.

    Raises:
        ConfigError: see `check_template_kwargs` and `check_date`.
    """
    template = tokenizer.chat_template
    check_template_kwargs(template, template_kwargs or {})
    lines = [
        # Not `set` alone: what a call gives overrides it.
        f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
        for name, value in (template_kwargs or {}).items()
    ]
    if date is not None and reads_clock(template):
        lines.append(_clock_at(check_date(date)))
    if not lines:
        return
    # Jinja drops a line end after a block, so that the template begins as it would by itself.
    start = "".join(lines) + "\n"
    tokenizer.chat_template = _each(template, lambda text: start + text)


def pinned(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    date: str | None = None,
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with arguments and a date in its chat template, see `pin_template`."""
    tokenizer = copy.deepcopy(tokenizer)
    pin_template(tokenizer, template_kwargs=template_kwargs, date=date)
    return tokenizer


class TurnEnd(NamedTuple):
    """How an answer ends.

    Attributes:
        ids: tokens after an answer, up to the one at which generation stops; none if nothing ends a turn.
        text: what the template ends a turn with, if that holds no special token; else empty.
    """

    ids: list[int]
    text: str = ""


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """What the chat template writes after an answer, up to and including the first special token.

    Where the template writes no such token, or no answers, the tokenizer's end-of-sequence token takes its
    place (after the text that the template writes, if it writes any).
    """
    tail = _after_answer(tokenizer)
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    ends = _control_ids(tokenizer)
    for i, token in enumerate(ids):
        if token in ends:
            return TurnEnd(list(ids[: i + 1]))
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    text = tail.rstrip()
    return TurnEnd([*(tokenizer(text, add_special_tokens=False)["input_ids"] if text else []), *eos], text)


def opening_of_answer(tokenizer: PreTrainedTokenizerBase, **template_kwargs: Any) -> str:
    """What the chat template writes between a user's message and the answer.

    Raises:
        ConfigError: see `render`.
    """
    (text,) = render(tokenizer, [[{"role": "user", "content": _QUESTION}]], template_kwargs=template_kwargs)
    return text.rpartition(_QUESTION)[2]


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    chat = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        (text,) = render(tokenizer, [chat], add_generation_prompt=False)
    except ConfigError:  # a template for prompts alone
        return ""
    return text.rpartition(_ANSWER)[2] if _ANSWER in text else ""


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of special and added tokens; runs of spaces are text, and so is what stands for unknown text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    return (added | set(tokenizer.all_special_ids)) - unknown


def _each(template: Any, change: Callable[[str], str]) -> Any:
    if isinstance(template, dict):
        return {name: change(text) for name, text in template.items()}
    return change(template)


def _clock_at(date: str) -> str:
    """A macro in place of the clock: it writes a format's directives, one after the other, as of a date."""
    midnight = datetime.datetime.fromisoformat(date)
    values = {directive: midnight.strftime(directive) for directive in _DIRECTIVES}
    places = {"%%": "\0"} | values | {"\0": "%"}
    return (
        f"{{% macro {_CLOCK}(format) %}}{{% set out = namespace(text=format) %}}"
        f"{{% for directive, value in {places!r}.items() %}}"
        "{% set out.text = out.text.replace(directive, value) %}{% endfor %}"
        "{{ out.text }}{% endmacro %}"
    )
