"""How many dimensions activations spread over."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from revlens.errors import NonFiniteError, ProbeError


def participation_ratio(
    vectors: Float[Tensor, "prompt layer d_model"],
) -> Float[Tensor, " layer"]:
    """Participation ratio (sum of eigenvalues)^2 / sum of their squares of the covariance over prompts.

    It is the number of dimensions among which the variance is shared: 1 if all vectors differ along one axis,
    k if they spread alike over k axes. With n prompts it is at most n - 1, and biased downward where the true
    number comes near that. A null that draws from vectors of few dimensions has large cosines by chance, so
    its threshold is high: with 1.5 dimensions hardly any drift passes.

    Raises:
        ProbeError: with fewer than 2 prompts.
        NonFiniteError: if the vectors do not vary over prompts at some layer, or are not finite.
    """
    if len(vectors) < 2:
        raise ProbeError(f"A covariance needs at least 2 prompts, got {len(vectors)}.")
    centred = (vectors.double() - vectors.double().mean(0)).transpose(0, 1)
    # Prompts' inner products have the covariance's eigenvalues other than 0, and there are fewer of them.
    products = torch.einsum("lnd,lmd->lnm", centred, centred)
    ratio = products.diagonal(dim1=1, dim2=2).sum(-1).square() / products.square().sum((1, 2))
    if not ratio.isfinite().all():
        raise NonFiniteError(
            "A spread over prompts needs finite vectors that vary over prompts at every layer."
        )
    return ratio
