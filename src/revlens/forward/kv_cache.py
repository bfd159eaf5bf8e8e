"""Keys and values of earlier tokens, computed once and read by many passes over later tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def accepts(model: TransformerBridge, argument: str) -> bool:
    """Whether the wrapped model's forward has a parameter of this name."""
    return argument in _parameters(type(model.original_model).forward)


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def keeps_only_keys_and_values(model: TransformerBridge) -> bool:
    """Whether all that the model keeps of earlier tokens are keys and values, in a cache that it accepts."""
    hf_model = model.original_model
    if not accepts(model, "past_key_values") or not isinstance(hf_model, PreTrainedModel):
        return False
    return {type(layer) for layer in DynamicCache(config=hf_model.config).layers} <= {
        DynamicLayer,
        DynamicSlidingWindowLayer,
    }


def complete_layers(past: DynamicCache, n_tokens: int) -> list[DynamicLayer]:
    """The layers of a cache that hold keys and values of all ``n_tokens`` tokens."""
    return [
        layer
        for layer in past.layers
        if isinstance(layer, DynamicLayer) and layer.get_seq_length() == n_tokens
    ]


def shared_cache(layers: Sequence[DynamicLayer], length: int) -> DynamicCache:
    """A cache of the first ``length`` tokens, which any number of passes and rows read and none changes."""
    past = DynamicCache()
    past.layers = [SharedCacheLayer(layer, length) for layer in layers]
    return past


class SharedCacheLayer(DynamicLayer):
    """A layer's keys and values of some prompts' first tokens, shared by all rows that go on from there.

    The first row of a batch continues the first prompt; the rows after it continue all prompts, in their
    order, any number of times.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, complete: DynamicLayer, length: int) -> None:
        super().__init__()
        assert complete.keys is not None
        assert complete.values is not None
        self.lazy_initialization(complete.keys, complete.values)
        self.keys, self.values = complete.keys[:, :, :length], complete.values[:, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Shared and new keys and values, joined; the new ones are not kept, as no later token reads them."""
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(
    past: Float[Tensor, "prompt head past d_head"], new: Float[Tensor, "row head new d_head"]
) -> Float[Tensor, "row head pos d_head"]:
    length = past.shape[2]
    # Some bridges cache in another precision than they compute in (OLMo 2 in half precision).
    dtype = torch.promote_types(past.dtype, new.dtype)
    out = new.new_empty(*new.shape[:2], length + new.shape[2], new.shape[3], dtype=dtype)
    out[:, :, length:] = new
    out[0, :, :length] = past[0]
    out[1:].unflatten(0, ((len(new) - 1) // len(past), len(past)))[..., :length, :] = past
    return out
