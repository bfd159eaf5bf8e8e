"""How well the probe prompts determine v_rev."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from revlens.errors import ProbeError


@dataclass(frozen=True)
class Reliability:
    """Split-half reliability of a mean difference, per layer.

    Attributes:
        half: mean cosine between estimates from random disjoint halves of the prompts.
        full: Spearman-Brown prediction for all prompts, 2r / (1 + r).
        low: lower end of the 95 % bootstrap interval of ``full`` over prompts.
        high: upper end.
    """

    half: Float[Tensor, " layer"]
    full: Float[Tensor, " layer"]
    low: Float[Tensor, " layer"]
    high: Float[Tensor, " layer"]


def reliability(
    reference: Float[Tensor, "prompt layer d_model"],
    aligned: Float[Tensor, "prompt layer d_model"],
    *,
    n_splits: int = 500,
    seed: int = 0,
) -> Reliability:
    """Split-half reliability of v_rev with Spearman-Brown correction.

    The interval resamples prompts within each half, never across: a prompt in both halves would correlate them. A
    resampled half of m prompts carries (2 - 1/m) times the noise of a plain one, so its cosine is lengthened to all
    prompts by 2 (2 - 1/m) instead of 2. The interval is conservative: it also holds the variation between random splits.

    Raises:
        ProbeError: with fewer than 4 prompts.
    """
    n = reference.shape[0]
    if n < 4:
        raise ProbeError(f"Split-half reliability needs at least 4 prompts, got {n}.")
    differences = (reference - aligned).double()
    generator = derive_generator(seed, "reliability")
    plain, resampled = [], []
    for _ in range(n_splits):
        order = torch.randperm(n, generator=generator)
        halves = order[: n // 2], order[n // 2 :]
        plain.append(_cosine_of_means(differences, *halves))
        draws = [half[torch.randint(len(half), (len(half),), generator=generator)] for half in halves]
        resampled.append(_cosine_of_means(differences, *draws))
    half = torch.stack(plain).mean(0)
    boot = _spearman_brown(torch.stack(resampled), 2 * (2 - 1 / (n // 2)))
    low, high = torch.quantile(boot, torch.tensor([0.025, 0.975], dtype=boot.dtype), dim=0)
    return Reliability(half, _spearman_brown(half, 2.0), low, high)


def _cosine_of_means(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.cosine_similarity(values[first].mean(0), values[second].mean(0), dim=-1)


def _spearman_brown(r: Tensor, lengthening: float) -> Tensor:
    return lengthening * r / (1 + (lengthening - 1) * r)
