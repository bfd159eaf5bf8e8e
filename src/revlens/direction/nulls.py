"""Nulls for the alignment: what cosine would a direction reach that carries no reversion?

Draws are joint over layers (one draw gives a direction at every layer), so that a statistic over layers, such as the
mean cosine, is compared with the same statistic of each draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import beta, norm, t
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from revlens.direction.locate import unit_vectors
from revlens.errors import ConfigError, NonFiniteError, ProbeError


def isotropic_quantile(d_model: int, level: float = 0.99) -> float:
    """The exact ``level`` quantile of cos(x, u), for any fixed x and u uniform on the sphere in R^d_model.

    cos^2 follows Beta(1/2, (d-1)/2) and the sign is symmetric, so for level >= 1/2 the quantile is the square root
    of the Beta quantile at 2 * level - 1.

    Raises:
        ConfigError: if ``level`` is not in [0.5, 1) or ``d_model`` < 2.
    """
    if not 0.5 <= level < 1.0 or d_model < 2:
        raise ConfigError(
            f"isotropic_quantile needs d_model >= 2 and 0.5 <= level < 1, got {d_model} and {level}."
        )
    return float(beta.ppf(2 * level - 1, 0.5, (d_model - 1) / 2) ** 0.5)


def isotropic_directions(
    n_draws: int, n_layers: int, d_model: int, *, seed: int = 0
) -> Float[Tensor, "draw layer d_model"]:
    """Unit vectors uniform on the sphere, independent across layers."""
    generator = derive_generator(seed, "isotropic")
    return unit_vectors(torch.randn(n_draws, n_layers, d_model, generator=generator, dtype=torch.float64))


def covariance_directions(
    activations: Float[Tensor, "prompt layer d_model"], n_draws: int, *, seed: int = 0
) -> Float[Tensor, "draw layer d_model"]:
    """Unit vectors u ~ N(0, Sigma_l), Sigma_l the sample covariance over prompts at each layer.

    A draw uses the same prompt weights at every layer, so that the covariance between layers is kept as well. Where there are
    fewer prompts than dimensions draws lie in the span of the prompts. Shrinkage towards the identity would fill the rest, but
    it makes draws rounder than the activations are, and the null too lenient (docs/trust.md); a cosine needs no full rank.

    Raises:
        ProbeError: with fewer than 2 prompts.
        NonFiniteError: if the activations do not vary at some layer.
    """
    n = len(activations)
    if n < 2:
        raise ProbeError(f"A covariance needs at least 2 prompts, got {n}.")
    centred = (activations - activations.mean(0)).double()
    prompt_weights = torch.randn(
        n_draws, n, generator=derive_generator(seed, "covariance"), dtype=torch.float64
    )
    return _with_length(torch.einsum("rn,nld->rld", prompt_weights, centred))


def relabelled_directions(
    reference: Float[Tensor, "prompt layer d_model"],
    aligned: Float[Tensor, "prompt layer d_model"],
    n_draws: int,
    *,
    seed: int = 0,
) -> Float[Tensor, "draw layer d_model"]:
    """Matched empirical null: "reference minus aligned" with the two labels swapped on a random half of the prompts.

    Exactly half are swapped (one prompt, drawn at random, sits out where their number is odd). The reversion common to
    all prompts then cancels; free coin flips would leave a random share of it, of the order of 1/sqrt(n) like the
    noise itself, and the null would contain the effect that it is meant to lack.

    Raises:
        ProbeError: with fewer than 4 prompts.
        NonFiniteError: if the differences do not vary over prompts.
    """
    n = reference.shape[0]
    if n < 4:
        raise ProbeError(f"Relabelling needs at least 4 prompts, got {n}.")
    differences = (reference - aligned).double()
    generator = derive_generator(seed, "relabelled")
    signs = torch.zeros(n_draws, n, dtype=torch.float64)
    for draw in signs:
        order = torch.randperm(n, generator=generator)
        draw[order[: n // 2]] = 1.0
        draw[order[n // 2 : 2 * (n // 2)]] = -1.0
    return _with_length(torch.einsum("rn,nld->rld", signs, differences))


def _with_length(draws: Float[Tensor, "draw layer d_model"]) -> Float[Tensor, "draw layer d_model"]:
    directions = unit_vectors(draws)
    if not directions.isfinite().all():
        raise NonFiniteError(
            "A null direction has no length: the activations hold NaN, or do not vary over prompts."
        )
    return directions


@dataclass(frozen=True)
class NullDistribution:
    """Cosines of a drift with null directions.

    Attributes:
        cosines: by step (or other leading axis), draw and layer.
        n_prompts: from how many prompts the directions were drawn; None where they do not come from prompts.
    """

    cosines: Float[Tensor, "step draw layer"]
    n_prompts: int | None

    @classmethod
    def of(
        cls,
        drift: Float[Tensor, "step layer d_model"],
        directions: Float[Tensor, "draw layer d_model"],
        *,
        n_prompts: int | None,
    ) -> NullDistribution:
        """Cosine of every step's drift with every null direction, layer by layer."""
        return cls(torch.einsum("sld,rld->srl", unit_vectors(drift), directions), n_prompts)

    def quantile(self, level: float = 0.99) -> Float[Tensor, " step"]:
        """Quantile of the mean cosine over layers.

        Directions drawn from n prompts spread as these prompts happened to; Student's quantile over the normal one makes up for
        what that estimate of the spread is off by. Without it one test in fifty exceeds p99 at 30 prompts (docs/trust.md).
        """
        drawn = torch.quantile(self.cosines.mean(-1), level, dim=-1)
        return (
            drawn
            if self.n_prompts is None
            else drawn * float(t.ppf(level, self.n_prompts - 1) / norm.ppf(level))
        )


def exceedance(
    alignment: Float[Tensor, "step layer"], threshold: float | Sequence[float] | Tensor
) -> Float[Tensor, " step"]:
    """1.0 at each step whose mean cosine over layers lies above the threshold, else 0.0.

    For the isotropic null pass `isotropic_quantile`, the exact law of one layer. It is an upper bound for the mean over
    layers both where null directions are independent between layers and where all layers share one.

    Raises:
        NonFiniteError: if a cosine is NaN (a drift of length zero): it neither exceeds nor falls short.
    """
    if not alignment.isfinite().all():
        raise NonFiniteError("The alignment holds NaN or infinity: at some step and layer there is no drift.")
    return (alignment.mean(-1) > torch.as_tensor(threshold, dtype=alignment.dtype)).double()
