"""A model's latest forward pass: how much of the text its KV cache covers, and where padding lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.context import check_pass, context_of


@dataclass
class ForwardPass:
    """What is known of a model's latest forward pass before its hooks run.

    Attributes:
        count: how many forward passes have run since `follow` began.
        generating: whether a pass was asked to keep keys and values (``use_cache``), as only generation asks.
        n_past: columns of the batch that its KV cache covers.
        mask: its attention mask over all columns so far, or None.
    """

    count: int = 0
    generating: bool = False
    n_past: int = 0
    mask: Tensor | None = None


@contextmanager
def follow(model: TransformerBridge) -> Iterator[ForwardPass]:
    """Follow the model's forward passes while the context is open; each of them refills the same record.

    Raises:
        ConfigError: in a pass beyond the model's context, see `revlens.context.check_context`.
    """
    latest, context = ForwardPass(), context_of(model)

    def before_forward(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        past, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        latest.count += 1
        latest.generating |= bool(kwargs.get("use_cache"))
        latest.n_past = 0 if past is None else int(past.get_seq_length())
        latest.mask = mask if mask is not None and mask.ndim == 2 else None
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0] if args else None
        if isinstance(tokens, Tensor):
            check_pass(context, latest.n_past, tokens.shape[1])

    handle = model.original_model.register_forward_pre_hook(before_forward, with_kwargs=True)
    try:
        yield latest
    finally:
        handle.remove()
