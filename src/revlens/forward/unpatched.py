"""Unpatched runs over prompts of equal length: without padding, a short pass after one needs no mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.forward.last_token import last_logits
from revlens.forward.length_batches import equal_lengths
from revlens.hooks import record


@dataclass(frozen=True)
class UnpatchedRun:
    """What an unpatched forward pass gives.

    Attributes:
        tokens: ids.
        logits: at the last token.
        kept: activations by hook point, at the last few positions.
    """

    tokens: Int[Tensor, "prompt pos"]
    logits: Float[Tensor, "prompt d_vocab"]
    kept: dict[str, Tensor]


def unpadded_batches(
    model: TransformerBridge, rows: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[list[int], Int[Tensor, "prompt pos"]]]:
    """Batches of prompts of equal length: their indices, and their tokens on the model's device.

    Raises:
        ConfigError: if the batch size is below 1.
    """
    device = next(model.parameters()).device
    for prompts in equal_lengths([len(row) for row in rows], batch_size):
        yield prompts, torch.tensor([list(rows[i]) for i in prompts], device=device)


def unpatched_run(
    model: TransformerBridge,
    tokens: Int[Tensor, "prompt pos"],
    names: Iterable[str],
    last: int,
    **kwargs: Any,
) -> UnpatchedRun:
    """Run the model as it is, and keep the last ``last`` positions at the named hook points."""
    # Copied, so that the positions before them can be freed.
    with record(model, list(names), select=lambda activation: activation[:, -last:].clone()) as kept:
        logits = last_logits(model, tokens, **kwargs)
    return UnpatchedRun(tokens, logits, kept)
