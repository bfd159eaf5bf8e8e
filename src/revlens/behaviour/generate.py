"""Greedy replies to chat prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from revlens.errors import ProbeError
from revlens.forward import shortest_first
from revlens.hooks import the_bridge
from revlens.prompts import encode_prompts, pad_id_of, pad_left


@torch.no_grad()
def generate(
    model: nn.Module, prompts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 128
) -> list[str]:
    """Greedy reply to each user message, in the model's chat format, without special tokens.

    Prompts of similar length share a batch; replies come back in the order of the prompts.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: if the batch size is below 1; also see `revlens.prompts.encode_prompts`.
    """
    model = the_bridge(model, hooked=False)
    if not prompts:
        raise ProbeError("No prompts to reply to.")
    rows = encode_prompts(model.tokenizer, prompts)
    pad_id = pad_id_of(model.tokenizer)
    replies = [""] * len(rows)
    for members in shortest_first([len(row) for row in rows], batch_size):
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
