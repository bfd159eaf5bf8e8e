"""The tokens that all prompts begin with (a system message, the chat header), run once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from revlens.forward.early_stop import run_until
from revlens.forward.kv_cache import Past, caches_plainly, takes, whole_layers
from revlens.forward.positions import pool
from revlens.hooks import record
from revlens.prompts import pad_id_of


@dataclass(frozen=True)
class SharedPrefix:
    """Keys, values and activations at the first tokens of every prompt.

    Attributes:
        length: number of tokens.
        past: their keys and values; passes over later tokens read it and leave it as it is.
        kept: their activations by hook point, if they are asked for.
    """

    length: int
    past: DynamicCache
    kept: dict[str, Float[Tensor, "pos d_model"]]


@torch.no_grad()
def shared_prefix(
    model: TransformerBridge, rows: Sequence[Sequence[int]], names: Sequence[str], *, keep: bool
) -> SharedPrefix | None:
    """Run what all rows begin with, if that saves time and gives the numbers of whole rows.

    The shortest and the longest row are read both ways. Where the model keeps more than keys and values of earlier tokens, or
    the two ways differ by more than rounding, there is no prefix: whole rows give the same numbers, later.

    Args:
        model: without hooks.
        rows: token ids of prompts.
        names: hook points that will be read.
        keep: whether the prefix's own activations are wanted.
    """
    shortest, longest = min(rows, key=len), max(rows, key=len)
    length = min(_common_length(rows), len(shortest) - 1)  # a token of each row is left, to be read
    if length * (len(rows) - 1) <= 2 * (len(shortest) + len(longest)) or not caches_plainly(model):
        return None
    cache, last_only = DynamicCache(), {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
    tokens = torch.tensor([shortest[:length]], device=next(model.parameters()).device)
    with record(model, names if keep else []) as kept:
        model(tokens, past_key_values=cache, use_cache=True, **last_only)
    layers = whole_layers(cache, length)
    if len(layers) != model.cfg.n_layers:
        return None
    past = DynamicCache()
    past.layers = [Past(layer, length) for layer in layers]
    prefix = SharedPrefix(length, past, {name: activation[0] for name, activation in kept.items()})
    whole = _last(model, [shortest, longest], names)
    short = _last(model, [shortest, longest], names, prefix)
    return prefix if all(_equal(short[name], whole[name]) for name in names) else None


def padded(
    model: TransformerBridge, rows: Sequence[Sequence[int]], prefix: SharedPrefix | None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], dict[str, Any]]:
    """Tokens of what rows go on with after the prefix, their mask, and the arguments that the bridge needs with them.

    Padding is on the right, where no token sees it and it moves no position.
    """
    done, device = 0 if prefix is None else prefix.length, next(model.parameters()).device
    new = [torch.tensor(row[done:]) for row in rows]
    tokens = pad_sequence(new, batch_first=True, padding_value=pad_id_of(model.tokenizer)).to(device)
    mask = pad_sequence([torch.ones_like(row) for row in new], batch_first=True).to(device)
    arguments: dict[str, Any] = {} if prefix is None else {"past_key_values": prefix.past}
    if any(len(row) < tokens.shape[1] for row in new):
        arguments["attention_mask"] = torch.cat([mask.new_ones(len(mask), done), mask], dim=1)
    return tokens, mask, arguments


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with: as many as the first and the last in order do."""
    first, last = min(map(list, rows)), max(map(list, rows))
    return next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )


def _last(
    model: TransformerBridge,
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
    prefix: SharedPrefix | None = None,
) -> dict[str, Float[Tensor, "row d_model"]]:
    tokens, mask, arguments = padded(model, rows, prefix)
    found: dict[str, Tensor] = {}

    def take(name: str, activation: Tensor) -> None:
        found[name] = pool(activation, mask, "last")

    run_until(model, tokens, names, take, **arguments)
    return found


def _equal(short: Float[Tensor, "row d_model"], whole: Float[Tensor, "row d_model"]) -> bool:
    # Half the digits of the dtype, relative to the largest entry: far more than rounding, far less than a wrong mask or position.
    tolerance = torch.finfo(whole.dtype).eps ** 0.5 * float(whole.abs().max())
    return float((short - whole).abs().max()) <= tolerance
