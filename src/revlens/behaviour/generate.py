"""Greedy replies to chat prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from revlens.behaviour.thinking import MARKER_TOKENS, is_opened_by
from revlens.chat_templates import TurnEnd, end_of_turn, opening_of_answer
from revlens.context import prompt_rows
from revlens.errors import ProbeError
from revlens.forward import shortest_first
from revlens.hooks import the_bridge
from revlens.prompts import pad_id_of, pad_left


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[str]:
    """Greedy reply to each user message, in the model's chat format, without special tokens.

    A reply ends at the first token that ends one: those of the model's generation configuration and
    configuration, that with which the chat template ends a turn, and the tokenizer's end of sequence. The
    markers of thinking stay, special tokens or not, and where the chat template opens the thinking itself,
    the reply begins with that marker; `split_thinking` takes the two apart.

    Prompts of similar length share a batch; replies come back in the order of the prompts.

    Args:
        model: any bridge whose tokenizer has a chat template.
        prompts: user messages.
        max_new_tokens: longest reply.
        batch_size: prompts at a time.
        template_kwargs: arguments of the chat template, see `revlens.chat_templates.render`; those of the
            model's history hold anyway.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: if the batch size is below 1, or a prompt and its reply may not fit the model's context;
            also see `revlens.prompts.encode_prompts`.
    """
    model = the_bridge(model, hooked=False)
    if not prompts:
        raise ProbeError("No prompts to reply to.")
    tokenizer = model.tokenizer
    rows = prompt_rows(model, prompts, new_tokens=max_new_tokens, template_kwargs=template_kwargs)
    opened = is_opened_by(opening_of_answer(tokenizer, **(template_kwargs or {})))
    end = end_of_turn(tokenizer)
    stops = stop_ids(model, end)
    pad_id = pad_id_of(tokenizer)
    replies = [""] * len(rows)
    for members in shortest_first([len(row) for row in rows], batch_size):
        batch = pad_left([rows[i] for i in members], pad_id)
        output = model.generate(
            batch.tokens.to(model.cfg.device),
            attention_mask=batch.mask.to(model.cfg.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stop_at_eos=bool(stops),
            eos_token_id=stops or None,  # type: ignore[arg-type]  # it takes a list as well
            return_type="tokens",
            verbose=False,
        )
        assert isinstance(output, torch.Tensor)
        answers = _until_end(output[:, batch.tokens.shape[1] :], stops)
        for i, text in zip(members, _decoded(tokenizer, answers), strict=True):
            replies[i] = opened + (text.split(end.text)[0] if end.text else text)
    return replies


def stop_ids(model: TransformerBridge, end: TurnEnd) -> list[int]:
    """Ids of the tokens that end a reply."""
    hf_model: Any = model.original_model
    named = [
        getattr(hf_model, "generation_config", None),
        hf_model.config.get_text_config(),
        model.tokenizer,
    ]
    ids = set(end.ids[-1:])
    for settings in named:
        stops = getattr(settings, "eos_token_id", None)
        ids |= set() if stops is None else {stops} if isinstance(stops, int) else set(stops)
    return sorted(ids)


def _until_end(tokens: torch.Tensor, stops: Sequence[int]) -> list[list[int]]:
    """Cut each row at its first token that ends a reply: what follows is padding."""
    rows: list[list[int]] = tokens.tolist()
    return [row[: next((i for i, token in enumerate(row) if token in stops), len(row))] for row in rows]


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Rows as text, without special tokens other than the markers of thinking."""
    special = set(tokenizer.all_special_ids)
    kept = {
        i: token.content
        for i, token in tokenizer.added_tokens_decoder.items()
        if i in special and token.content in MARKER_TOKENS
    }
    if not any(token in kept for row in rows for token in row):
        return tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [_with_markers(tokenizer, row, kept) for row in rows]


def _with_markers(tokenizer: PreTrainedTokenizerBase, row: list[int], kept: Mapping[int, str]) -> str:
    text, start = "", 0
    for i, token in enumerate([*row, None]):
        if token is None or token in kept:
            text += str(tokenizer.decode(row[start:i], skip_special_tokens=True))
            text += "" if token is None else kept[token]
            start = i + 1
    return text
