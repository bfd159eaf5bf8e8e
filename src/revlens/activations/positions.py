"""Position policies: one vector per prompt from the activations at its tokens."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from revlens.errors import SiteError

#: ``last``: the last prompt token, whose logits open the answer; ``mean``: the mean over prompt tokens.
Positions = Literal["last", "mean"]
POSITIONS: tuple[str, ...] = get_args(Positions)


def pool(
    activation: Float[Tensor, "batch pos d_model"], mask: Int[Tensor, "batch pos"], positions: Positions
) -> Float[Tensor, "batch d_model"]:
    """Reduce left-padded activations to one vector per prompt.

    Raises:
        SiteError: on an unknown policy.
    """
    if positions == "last":
        return activation[:, -1]
    if positions == "mean":
        weights = mask.to(activation.dtype)
        return (activation * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    raise SiteError(f"Unknown position policy {positions!r}; expected one of {', '.join(POSITIONS)}.")
