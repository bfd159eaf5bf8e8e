"""Keys and values of earlier tokens, computed once and given to passes over later ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def takes(model: TransformerBridge, argument: str) -> bool:
    """Whether the wrapped model's forward names an argument."""
    return argument in _arguments(type(model.original_model).forward)


@cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def caches_plainly(model: TransformerBridge) -> bool:
    """Whether all that the model keeps of earlier tokens are keys and values, in a cache that it takes as an argument."""
    hf_model = model.original_model
    if not takes(model, "past_key_values") or not isinstance(hf_model, PreTrainedModel):
        return False
    return {type(layer) for layer in DynamicCache(config=hf_model.config).layers} <= {
        DynamicLayer,
        DynamicSlidingWindowLayer,
    }


def whole_layers(past: DynamicCache, n_tokens: int) -> list[DynamicLayer]:
    """The layers of a cache that hold keys and values of every one of ``n_tokens`` tokens."""
    return [
        layer
        for layer in past.layers
        if isinstance(layer, DynamicLayer) and layer.get_seq_length() == n_tokens
    ]


class Past(DynamicLayer):
    """A layer's keys and values before a position, for however many copies of the prompts go on from there."""

    keys: Tensor
    values: Tensor

    def __init__(self, whole: DynamicLayer, length: int) -> None:
        super().__init__()
        assert whole.keys is not None
        assert whole.values is not None
        self.lazy_initialization(whole.keys, whole.values)
        self.keys, self.values = whole.keys[:, :, :length], whole.values[:, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Past and present, joined but not kept: no later token will ask for them."""
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(
    past: Float[Tensor, "prompt head past d_head"], new: Float[Tensor, "row head new d_head"]
) -> Float[Tensor, "row head pos d_head"]:
    """The first row goes on from the first prompt, and each run of rows after it from all prompts."""
    length = past.shape[2]
    # Some bridges cache in another precision than they compute in (OLMo 2 in half precision).
    dtype = torch.promote_types(past.dtype, new.dtype)
    out = new.new_empty(*new.shape[:2], length + new.shape[2], new.shape[3], dtype=dtype)
    out[:, :, length:] = new
    out[0, :, :length] = past[0]
    out[1:].unflatten(0, ((len(new) - 1) // len(past), len(past)))[..., :length, :] = past
    return out
