"""Gradients and updates as vectors: one tensor for each trained parameter, None for zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Gradients = list[Tensor | None]


def inner_product(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Float[Tensor, ""]:
    """Inner product of two sets of weights in double precision; None is zero."""
    products = [
        torch.sum(x.double() * y.double())
        for x, y in zip(a, b, strict=True)
        if x is not None and y is not None
    ]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)
