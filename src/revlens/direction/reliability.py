"""How well the probe prompts determine v_rev."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import t
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from revlens.errors import ProbeError


@dataclass(frozen=True)
class Reliability:
    """Split-half reliability of a mean difference, per layer.

    Attributes:
        half: mean cosine between estimates from random disjoint halves of the prompts.
        full: Spearman-Brown prediction for all prompts, 2r / (1 + r).
        low: lower end of the 95 % jackknife interval of ``full`` over prompts.
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

    The interval is a jackknife that leaves out one prompt at a time (Efron & Tibshirani 1993, ch. 11). It is
    taken over the log of 1 - reliability, the share of sampling noise in the squared length of the gap: its
    errors are nearly symmetric.

    Args:
        reference: activations of the reference.
        aligned: activations of the aligned model, on the same prompts.
        n_splits: random splits of the prompts into halves.
        seed: of the splits.

    Raises:
        ProbeError: with fewer than 4 prompts, or if both checkpoints have the same activations at some layer.
    """
    n = reference.shape[0]
    if n < 4:
        raise ProbeError(f"Split-half reliability needs at least 4 prompts, got {n}.")
    differences = (reference - aligned).double()
    if (differences == 0).all(-1).all(0).any():
        raise ProbeError(
            "Reference and aligned checkpoint have the same activations at some layer, so there is no v_rev "
            "to rely on."
        )
    generator = derive_generator(seed, "reliability")
    splits = (torch.randperm(n, generator=generator).tensor_split([n // 2]) for _ in range(n_splits))
    half = torch.stack([_cosine_of_means(differences, *halves) for halves in splits]).mean(0)
    full = 2 * half / (1 + half)
    factor = torch.exp(float(t.ppf(0.975, n - 1)) * _error_of_log_noise(differences))
    noise = (1 - full).clamp(min=0)
    return Reliability(half, full, 1 - noise * factor, 1 - noise / factor)


def _cosine_of_means(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.cosine_similarity(values[first].mean(0), values[second].mean(0), dim=-1)


def _error_of_log_noise(differences: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, " layer"]:
    """Jackknife standard error of log(noise / squared length).

    That is the variance of the mean over prompts, divided by the squared length of that mean.
    """
    n = len(differences)
    means = (differences.sum(0) - differences) / (n - 1)  # of all prompts but one
    # Squares about the mean of all prompts: squares about zero would lose a small variance to rounding. The
    # sum may still be nothing but rounding, hence the floor.
    centred = differences - differences.mean(0)
    rounding = torch.finfo(centred.dtype).eps
    about_all = centred.square().sum((0, -1))
    squares = about_all - n / (n - 1) * centred.square().sum(-1)
    squares = squares.maximum(rounding * (about_all + rounding * differences.square().sum((0, -1))))
    logs = squares.log() - means.square().sum(-1).log()
    return ((n - 1) * logs.var(0, correction=0)).sqrt()
