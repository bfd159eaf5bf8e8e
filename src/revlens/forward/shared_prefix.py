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

from revlens.forward.kv_cache import complete_layers, keeps_only_keys_and_values, shared_cache
from revlens.forward.last_token import last_logits
from revlens.forward.positions import run_pooled
from revlens.forward.rounding import deviation
from revlens.hooks import record
from revlens.prompts import pad_id_of


@dataclass(frozen=True)
class SharedPrefix:
    """Keys, values and activations at the first tokens of every prompt.

    Attributes:
        length: number of tokens.
        past: their keys and values; passes over later tokens read them and leave them as they are.
        kept: their activations by hook point, if they are asked for.
    """

    length: int
    past: DynamicCache
    kept: dict[str, Float[Tensor, "pos d_model"]]


@torch.no_grad()
def shared_prefix(
    model: TransformerBridge, rows: Sequence[Sequence[int]], names: Sequence[str], *, keep: bool
) -> SharedPrefix | None:
    """Run the tokens that all rows begin with, if that saves time and gives the numbers of whole rows.

    A check reads the shortest and the longest row both ways. None where the model keeps more than keys and
    values of earlier tokens, or where the two ways differ by more than rounding: then run whole rows.

    Args:
        model: without hooks.
        rows: token ids of prompts.
        names: hook points that will be read.
        keep: whether to keep the prefix's own activations.
    """
    shortest, longest = min(rows, key=len), max(rows, key=len)
    length = min(_common_length(rows), len(shortest) - 1)  # each row needs a token of its own to read
    cost_of_check = 2 * (len(shortest) + len(longest))
    if length * (len(rows) - 1) <= cost_of_check or not keeps_only_keys_and_values(model):
        return None
    cache = DynamicCache()
    tokens = torch.tensor([shortest[:length]], device=next(model.parameters()).device)
    with record(model, names if keep else []) as kept:
        last_logits(model, tokens, past_key_values=cache, use_cache=True)
    layers = complete_layers(cache, length)
    if len(layers) != model.cfg.n_layers:
        return None
    prefix = SharedPrefix(
        length, shared_cache(layers, length), {name: activation[0] for name, activation in kept.items()}
    )
    whole = _at_last_token(model, [shortest, longest], names, None)
    short = _at_last_token(model, [shortest, longest], names, prefix)
    return prefix if all(deviation(short[name], whole[name]).is_rounding for name in names) else None


def pad_right(
    model: TransformerBridge, rows: Sequence[Sequence[int]], prefix: SharedPrefix | None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], dict[str, Any]]:
    """The tokens of each row after the prefix, their mask, and the arguments that a pass over them needs.

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
    """How many tokens all rows begin with: as many as the first and the last in lexicographic order share."""
    first, last = min(map(list, rows)), max(map(list, rows))
    return next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )


def _at_last_token(
    model: TransformerBridge,
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
    prefix: SharedPrefix | None,
) -> dict[str, Float[Tensor, "row d_model"]]:
    tokens, mask, arguments = pad_right(model, rows, prefix)
    return run_pooled(model, tokens, mask, names, "last", **arguments)
