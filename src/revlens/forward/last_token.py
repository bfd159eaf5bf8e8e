"""Logits at the last prompt token, again and again, on keys and values computed once.

An edit at the last prompt token changes nothing before it, so an intervention there needs to run one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from revlens.context import prompt_rows
from revlens.forward.kv_cache import accepts, keeps_only_keys_and_values
from revlens.forward.length_batches import in_order
from revlens.hooks import without_dropout
from revlens.prompts import pad_id_of, pad_left

#: Runs a batch of prompts and returns the logits at their last tokens, under whatever hooks are on the model.
LastTokenPass = Callable[[], Float[Tensor, "batch d_vocab"]]


def last_logits(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], **kwargs: Any
) -> Float[Tensor, "rows d_vocab"]:
    """Logits at the last token, without dropout.

    Only that one is unembedded where the model can leave out the others.
    """
    if accepts(model, "logits_to_keep"):
        kwargs["logits_to_keep"] = 1
    with without_dropout(model):
        return model(tokens, **kwargs)[:, -1]


@torch.no_grad()
def last_token_passes(
    model: TransformerBridge, prompts: Sequence[str], batch_size: int
) -> list[LastTokenPass]:
    """One pass for each batch of user messages, in their order.

    To hooks, a pass is one more token after a cached text: of the token choices of `revlens.hooks`,
    ``answer`` selects it. A model that keeps more than keys and values, such as a recurrent state, runs whole
    prompts instead.

    Raises:
        ConfigError: if the batch size is below 1; also see `revlens.context.prompt_rows`.
    """
    rows = prompt_rows(model, prompts)
    device, cacheable = next(model.parameters()).device, keeps_only_keys_and_values(model)
    passes: list[LastTokenPass] = []
    for batch in in_order(range(len(rows)), batch_size):
        tokens, mask = (
            part.to(device) for part in pad_left([rows[i] for i in batch], pad_id_of(model.tokenizer))
        )
        if not cacheable or tokens.shape[1] == 1:
            passes.append(partial(last_logits, model, tokens, attention_mask=mask))
            continue
        # Cache the whole prompt, then cut its last token off: masks and positions are those of a plain
        # forward pass. Without a configuration the cache keeps every token, and the mask applies the model's
        # window.
        cache = DynamicCache()
        last_logits(model, tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        passes.append(partial(_last_token_on_cache, model, tokens, mask, cache))
    return passes


def _last_token_on_cache(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    cache: DynamicCache,
) -> Float[Tensor, "batch d_vocab"]:
    logits = last_logits(model, tokens[:, -1:], attention_mask=mask, past_key_values=cache, use_cache=True)
    cache.crop(-1)
    return logits
