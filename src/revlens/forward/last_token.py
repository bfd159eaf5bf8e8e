"""Forward passes over the last prompt token alone, again and again, on keys and values computed once.

What acts on the last prompt token changes nothing before it, so a study of many interventions there pays for one token each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from revlens.forward.kv_cache import caches_plainly
from revlens.prompts import encode_prompts, pad_id_of, pad_left

#: Runs a batch of prompts and returns the logits at their last tokens, under whatever hooks are on the model.
LastTokenPass = Callable[[], Float[Tensor, "batch d_vocab"]]


@torch.no_grad()
def last_token_passes(
    model: TransformerBridge, prompts: Sequence[str], batch_size: int
) -> list[LastTokenPass]:
    """One pass for each batch of user messages, in their order.

    To hooks, a pass is one more token after a cached text: of the token choices of `revlens.hooks`, ``answer`` selects it.
    A model that keeps more than keys and values, such as a recurrent state, runs whole prompts instead.
    """
    rows = encode_prompts(model.tokenizer, prompts)
    device, on_cache = next(model.parameters()).device, caches_plainly(model)
    passes = []
    for start in range(0, len(rows), batch_size):
        tokens, mask = (
            part.to(device) for part in pad_left(rows[start : start + batch_size], pad_id_of(model.tokenizer))
        )
        if not on_cache or tokens.shape[1] == 1:
            passes.append(_whole(model, tokens, mask))
            continue
        # The whole prompt, and its last token cut off again: masks and positions are those of a plain forward pass. Without
        # a configuration the cache keeps every token, whatever the model's window: the mask applies it.
        cache = DynamicCache()
        model(tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        passes.append(_on_cache(model, tokens, mask, cache))
    return passes


def _on_cache(model: TransformerBridge, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> LastTokenPass:
    def run() -> Float[Tensor, "batch d_vocab"]:
        logits = model(tokens[:, -1:], attention_mask=mask, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        return logits[:, -1]

    return run


def _whole(model: TransformerBridge, tokens: Tensor, mask: Tensor) -> LastTokenPass:
    return lambda: model(tokens, attention_mask=mask)[:, -1]
