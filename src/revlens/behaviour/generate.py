"""Greedy replies to chat prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ProbeError
from revlens.prompts import encode_prompts, pad_id_of, pad_left


@torch.no_grad()
def generate(
    model: TransformerBridge, prompts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 128
) -> list[str]:
    """Greedy reply to each user message, in the model's chat format, without special tokens.

    Prompts are batched by length, so that little is spent on padding; replies come back in the order of the
    prompts.

    Raises:
        ProbeError: if there is no prompt.
        ConfigError: see `revlens.prompts.encode_prompts`.
    """
    if not prompts:
        raise ProbeError("No prompts to reply to.")
    rows = encode_prompts(model.tokenizer, prompts)
    pad_id = pad_id_of(model.tokenizer)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    replies = [""] * len(rows)
    for start in range(0, len(rows), batch_size):
        members = by_length[start : start + batch_size]
        batch = pad_left([rows[i] for i in members], pad_id)
        output = model.generate(
            batch.tokens.to(model.cfg.device),
            attention_mask=batch.mask.to(model.cfg.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_type="tokens",
            verbose=False,
        )
        assert isinstance(output, torch.Tensor)
        answers = _until_end(output[:, batch.tokens.shape[1] :], model.tokenizer.eos_token_id)
        texts = model.tokenizer.batch_decode(answers, skip_special_tokens=True)
        for i, text in zip(members, texts, strict=True):
            replies[i] = text
    return replies


def _until_end(tokens: torch.Tensor, eos_id: int) -> list[list[int]]:
    """Cut each row at its end-of-sequence token: what follows is padding."""
    return [row[: row.index(eos_id)] if eos_id in row else row for row in tokens.tolist()]
