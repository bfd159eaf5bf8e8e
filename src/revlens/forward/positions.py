"""Position policies: one vector per prompt, or all of them, from the activations at its tokens."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from revlens.errors import SiteError

#: ``last``: the last prompt token, whose logits open the answer; ``mean``: the mean over prompt tokens.
Positions = Literal["last", "mean"]
POSITIONS: tuple[str, ...] = get_args(Positions)


def pool(
    activation: Float[Tensor, "batch pos d_model"], mask: Int[Tensor, "batch pos"], positions: Positions
) -> Float[Tensor, "batch d_model"]:
    """Reduce activations, padded on either side, to one vector per prompt; a mean is taken in float32 at least.

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
