"""Unpatched runs over prompts of equal length: no padding, so no mask that a shorter run would have to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError
from revlens.forward.kv_cache import takes
from revlens.hooks import record

#: A number per prompt from the logits at its last token. Rows come in any order and number, and must not see each other.
Metric = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class CleanRun:
    """What an unpatched forward pass leaves behind.

    Attributes:
        tokens: ids.
        logits: at the last token.
        kept: activations by hook point, of the last few positions.
    """

    tokens: Int[Tensor, "prompt pos"]
    logits: Float[Tensor, "prompt d_vocab"]
    kept: dict[str, Tensor]


def equal_lengths(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of rows of equal length, at most ``batch_size`` at a time; every row once."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def token_tensor(
    model: TransformerBridge, rows: Sequence[Sequence[int]], prompts: Sequence[int]
) -> Int[Tensor, "prompt pos"]:
    """Tokens of prompts of equal length, where the model is."""
    return torch.tensor([list(rows[i]) for i in prompts], device=next(model.parameters()).device)


def last_logits(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], **kwargs: Any
) -> Float[Tensor, "rows d_vocab"]:
    """Logits at the last token; only that one is unembedded where the model can leave out the others."""
    if takes(model, "logits_to_keep"):
        kwargs["logits_to_keep"] = 1
    return model(tokens, **kwargs)[:, -1]


def clean_run(
    model: TransformerBridge,
    tokens: Int[Tensor, "prompt pos"],
    names: Iterable[str],
    last: int,
    **kwargs: Any,
) -> CleanRun:
    """Run the model as it is, and keep the last ``last`` positions at the named hook points."""
    # Copied, so that the positions before them can be freed.
    with record(model, list(names), select=lambda activation: activation[:, -last:].clone()) as kept:
        logits = last_logits(model, tokens, **kwargs)
    return CleanRun(tokens, logits, kept)


def measure(metric: Metric, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
    """The metric as float32 on the CPU.

    Raises:
        ConfigError: if it does not give one number per row.
    """
    values = metric(logits)
    if values.shape != logits.shape[:1]:
        raise ConfigError(
            f"The metric must map logits {tuple(logits.shape)} to one number per row, got shape {tuple(values.shape)}."
        )
    return values.float().cpu()
