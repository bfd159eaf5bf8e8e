"""Greedy replies to chat prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import GenerationConfig, PreTrainedTokenizerBase

from revlens.behaviour.thinking import MARKER_TOKENS, is_opened_by
from revlens.chat_templates import TurnEnd, end_of_turn, opening_of_answer
from revlens.context import prompt_rows
from revlens.errors import ProbeError
from revlens.forward import shortest_first
from revlens.hooks import check_wrappable, the_bridge, without_dropout
from revlens.prompts import pad_id_of, pad_left


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    template_kwargs: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[str]:
    """Greedy reply to each user message, in the model's chat format, without special tokens.

    A reply ends at the first stop token: one of the model's generation configuration or configuration, the
    one that ends a turn in the chat template, or the tokenizer's end of sequence. The markers of thinking
    stay, special tokens or not, and where the chat template opens the thinking itself, the reply begins with
    that marker; `split_thinking` takes the two apart.

    Prompts of similar length share a batch; replies come back in the order of the prompts. A Hugging Face
    model gives the same tokens as its bridge in less time (docs/benchmarks.md); a bridge is for replies under
    hooks. Dropout is off, in whichever mode the model is.

    Args:
        model: any bridge whose tokenizer has a chat template, or a Hugging Face model that none has wrapped.
        prompts: user messages.
        max_new_tokens: longest reply, in tokens.
        batch_size: prompts at a time.
        template_kwargs: arguments of the chat template, see `revlens.chat_templates.render`; they override
            those of the model's history.
        tokenizer: of a Hugging Face model; a bridge has its own.

    Raises:
        ModelError: without a tokenizer see `revlens.hooks.the_bridge`, with one see
            `revlens.hooks.check_wrappable`.
        ProbeError: if there is no prompt.
        ConfigError: if the batch size is below 1, or a prompt and its reply may not fit the model's context;
            also see `revlens.prompts.encode_prompts`.
    """
    if tokenizer is None:
        bridge = the_bridge(model, hooked=False)
        hf_model, tokenizer, complete = bridge.original_model, bridge.tokenizer, _of_bridge(bridge)
    else:
        check_wrappable(model)
        hf_model, complete = model, _of_hugging_face(model)
    if not prompts:
        raise ProbeError("No prompts to reply to.")
    rows = prompt_rows(
        hf_model, prompts, new_tokens=max_new_tokens, template_kwargs=template_kwargs, tokenizer=tokenizer
    )
    opened = is_opened_by(opening_of_answer(tokenizer, **(template_kwargs or {})))
    end = end_of_turn(tokenizer)
    stops = stop_ids(hf_model, tokenizer, end)
    pad_id = pad_id_of(tokenizer)
    device = next(hf_model.parameters()).device
    replies = [""] * len(rows)
    for members in shortest_first([len(row) for row in rows], batch_size):
        batch = pad_left([rows[i] for i in members], pad_id)
        with without_dropout(model):
            output = complete(
                batch.tokens.to(device),
                attention_mask=batch.mask.to(device),
                max_new_tokens=max_new_tokens,
                eos_token_id=stops or None,
            )
        answers = _until_end(output[:, batch.tokens.shape[1] :], stops)
        for i, text in zip(members, _decoded(tokenizer, answers), strict=True):
            replies[i] = opened + (text.split(end.text)[0] if end.text else text)
    return replies


def _of_bridge(bridge: TransformerBridge) -> Callable[..., Tensor]:
    """Greedy completion by a bridge, whose hooks act."""

    def complete(tokens: Tensor, *, eos_token_id: list[int] | None, **given: Any) -> Tensor:
        output = bridge.generate(
            tokens,
            do_sample=False,
            stop_at_eos=eos_token_id is not None,
            eos_token_id=eos_token_id,  # type: ignore[arg-type]  # it takes a list as well
            return_type="tokens",
            verbose=False,
            **given,
        )
        assert isinstance(output, Tensor)
        return output

    return complete


def _of_hugging_face(model: Any) -> Callable[..., Tensor]:
    """Greedy completion by Hugging Face, without what the model's generation configuration adds to that."""

    def complete(tokens: Tensor, *, eos_token_id: list[int] | None, **given: Any) -> Tensor:
        own = model.generation_config
        # Hugging Face takes from it whatever a call leaves open, penalties of repetition too.
        model.generation_config = GenerationConfig(eos_token_id=eos_token_id, pad_token_id=0)
        try:
            return model.generate(tokens, do_sample=False, **given)
        finally:
            model.generation_config = own

    return complete


def stop_ids(hf_model: Any, tokenizer: PreTrainedTokenizerBase, end: TurnEnd) -> list[int]:
    """Ids of the tokens that end a reply."""
    named = [getattr(hf_model, "generation_config", None), hf_model.config.get_text_config(), tokenizer]
    ids = set(end.ids[-1:])
    for settings in named:
        stops = getattr(settings, "eos_token_id", None)
        ids |= set() if stops is None else {stops} if isinstance(stops, int) else set(stops)
    return sorted(ids)


def _until_end(tokens: Tensor, stops: Sequence[int]) -> list[list[int]]:
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
