"""How many tokens a model reads, and whether prompts, answers and generation stay within that."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError
from revlens.families import CONTEXT_NAMES, FIXED_CONTEXT, GROWING_CONTEXT
from revlens.prompts import encode_prompts

#: Names of the tables from which models look up positions.
_POSITIONS = re.compile(r"wpe|position|pos_enc|pos_emb")
#: Rows that OPT's table has before its first position, and BioGPT's.
_OFFSET = 2


class ContextWarning(UserWarning):
    """Text is longer than what the model was trained on."""


class Context(NamedTuple):
    """The longest text of a model.

    Attributes:
        limit: tokens; None if its configuration names no number.
        is_fixed: whether the model has no positions beyond the limit; if not, it computes them (rotary
            ones, say), but was not trained there.
    """

    limit: int | None
    is_fixed: bool


def context_of(model: nn.Module) -> Context:
    """The longest text of a bridge or a Hugging Face model, by its configuration and its tables."""
    model = getattr(model, "original_model", model)
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    limits = [
        limit for name in CONTEXT_NAMES if type(limit := getattr(config, name, None)) is int and limit > 0
    ]
    if not limits:
        return Context(None, False)
    limit = limits[0]
    if config.model_type in FIXED_CONTEXT or config.model_type in GROWING_CONTEXT:
        return Context(limit, config.model_type in FIXED_CONTEXT)
    tables = [*model.named_parameters(), *model.named_buffers()]
    is_fixed = any(
        tensor.ndim == 2 and limit <= tensor.shape[0] <= limit + _OFFSET and _POSITIONS.search(name)
        for name, tensor in tables
    )
    return Context(limit, is_fixed)


def prompt_rows(
    model: nn.Module,
    prompts: Sequence[str],
    *,
    new_tokens: int = 0,
    template_kwargs: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[list[int]]:
    """Token ids of each user message in a model's chat format, checked against its context.

    Args:
        model: a bridge, or a Hugging Face model.
        prompts: user messages.
        new_tokens: how many will be generated after each.
        template_kwargs: see `revlens.chat_templates.render`.
        tokenizer: of a Hugging Face model; a bridge has its own.

    Raises:
        ConfigError: see `check_context` and `revlens.prompts.encode_prompts`.

    Warns:
        ContextWarning: see `check_context`.
    """
    own: Any = model.tokenizer if tokenizer is None else tokenizer
    rows = encode_prompts(own, prompts, template_kwargs=template_kwargs)
    check_context(context_of(model), [len(row) for row in rows], prompts, new_tokens=new_tokens)
    return rows


def check_context(
    context: Context,
    lengths: Sequence[int],
    names: Sequence[str],
    *,
    new_tokens: int = 0,
    what: str = "Prompt",
) -> None:
    """Check that texts, and what is generated after them, fit a model's context.

    Args:
        context: of the model.
        lengths: tokens of each text.
        names: what each text is about, for messages: its prompt.
        new_tokens: how many are generated after each; the last of them is not read.
        what: the kind of text, for messages.

    Raises:
        ConfigError: if one does not fit and the model has no positions beyond its context, naming the first.

    Warns:
        ContextWarning: if one does not fit and the model computes positions beyond its context.
    """
    limit, extra = context.limit, max(new_tokens - 1, 0)
    too_long = [] if limit is None else [i for i, n in enumerate(lengths) if n + extra > limit]
    if limit is None or not too_long:
        return
    first = too_long[0]
    text = f"{what} {first}, {_shortened(names[first])}, has {lengths[first]} tokens"
    if extra:
        text += f", {lengths[first] + extra} with the {new_tokens} to be generated"
    others = f" ({len(too_long) - 1} others are too long as well)" if len(too_long) > 1 else ""
    room = limit + 1 - max(lengths)
    advice = "Shorten it or leave it out" + (
        f", or generate at most {room} tokens (max_new_tokens; reply_tokens of an experiment)."
        if extra and room > 0
        else "."
    )
    if context.is_fixed:
        raise ConfigError(f"{text}; the model has positions for {limit}{others}. {advice}")
    warnings.warn(
        f"{text}; the model was trained on texts of at most {limit} (max_position_embeddings){others}. "
        f"What it does beyond is not what it was trained to do. {advice}",
        ContextWarning,
        stacklevel=3,
    )


def check_pass(context: Context, n_past: int, n_tokens: int) -> None:
    """Check that a forward pass stays within a model's context.

    Args:
        context: of the model.
        n_past: tokens before the pass.
        n_tokens: tokens of the pass.

    Raises:
        ConfigError: if it does not and the model has no positions there.

    Warns:
        ContextWarning: if it is the first one that does not, and the model computes positions.
    """
    limit, end = context.limit, n_past + n_tokens
    if limit is None or end <= limit:
        return
    text = f"A forward pass reads {end} tokens, padding included"
    if context.is_fixed:
        raise ConfigError(
            f"{text}; the model has positions for {limit}. Shorten the prompts, or generate fewer tokens "
            "(max_new_tokens)."
        )
    if n_past <= limit:
        warnings.warn(
            f"{text}; the model was trained on texts of at most {limit} (max_position_embeddings).",
            ContextWarning,
            stacklevel=2,
        )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
