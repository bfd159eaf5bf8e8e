"""Position policies: one vector per prompt from the activations at its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.forward.early_stop import run_until

#: ``last``: the last prompt token, whose logits open the answer; ``mean``: the mean over prompt tokens.
Positions = Literal["last", "mean"]
POSITIONS: tuple[str, ...] = get_args(Positions)
#: Or ``all``: a vector per prompt token.
PositionsOrAll = Literal["last", "mean", "all"]


def pool(
    activation: Float[Tensor, "batch pos d_model"], mask: Int[Tensor, "batch pos"], positions: Positions
) -> Float[Tensor, "batch d_model"]:
    """Reduce activations, padded on either side, to one vector per prompt; a mean is in float32 at least.

    Raises:
        SiteError: on an unknown policy.
    """
    mask = mask.to(activation.device)
    if positions == "last":
        columns = torch.arange(mask.shape[1], device=mask.device)
        return activation[torch.arange(len(mask), device=mask.device), (mask * columns).argmax(1)]
    if positions == "mean":
        weights = mask.to(torch.promote_types(activation.dtype, torch.float32))
        return (activation * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    raise SiteError(f"Unknown position policy {positions!r}; expected one of {', '.join(POSITIONS)}.")


def run_pooled(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    names: Sequence[str],
    positions: Positions,
    **kwargs: Any,
) -> dict[str, Float[Tensor, "batch d_model"]]:
    """One vector per prompt at each hook point, from one pass over a padded batch, see `run_until`.

    Args:
        model: any bridge.
        tokens: ids, on the model's device.
        mask: 1 where a token is a prompt's, 0 on padding.
        names: hook points.
        positions: position policy.
        **kwargs: for the bridge's forward; the attention mask is among them where the model needs one.
    """
    pooled: dict[str, Tensor] = {}

    def take(name: str, activation: Tensor) -> None:
        pooled[name] = pool(activation, mask, positions)

    run_until(model, tokens, names, take, **kwargs)
    return pooled
