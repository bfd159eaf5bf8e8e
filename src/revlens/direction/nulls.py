"""Nulls of the alignment: the cosine that a direction without reversion reaches.

Draws are joint over layers: one draw gives a direction at every layer, so that a statistic over layers, such
as the mean cosine, is compared with the same statistic of each draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    cos^2 follows Beta(1/2, (d-1)/2) and the sign is symmetric, so for level >= 1/2 the quantile is the square
    root of the Beta quantile at 2 * level - 1.

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
    """Unit vectors u ~ N(0, Sigma_l), with Sigma_l the sample covariance over prompts at each layer.

    A draw weights prompts alike at every layer, which keeps the covariance between layers. With fewer prompts
    than dimensions, draws lie in the span of the prompts; a cosine needs no full rank. Shrinkage towards the
    identity would fill the other dimensions, but it makes draws rounder than the activations are and the null
    too lenient (docs/trust.md).

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
    return _normalised(torch.einsum("rn,nld->rld", prompt_weights, centred))


def relabelled_directions(
    reference: Float[Tensor, "prompt layer d_model"],
    aligned: Float[Tensor, "prompt layer d_model"],
    n_draws: int,
    *,
    seed: int = 0,
) -> Float[Tensor, "draw layer d_model"]:
    """Matched empirical null: reference minus aligned, with labels swapped on a random half of the prompts.

    Each draw swaps exactly half of the prompts; of an odd number, one at random sits out. The reversion
    common to all prompts then cancels. Free coin flips would leave a random share of it, of the order of
    1/sqrt(n) like the noise itself, and the null would contain the effect that it must lack.

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
    return _normalised(torch.einsum("rn,nld->rld", signs, differences))


def _normalised(draws: Float[Tensor, "draw layer d_model"]) -> Float[Tensor, "draw layer d_model"]:
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
        n_prompts: number of prompts behind the directions; None if they do not come from prompts.
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

        Directions drawn from n prompts spread as these prompts happen to. The ratio of Student's quantile to
        the normal one corrects for the error of that spread; without it one test in fifty exceeds p99 at 30
        prompts (docs/trust.md).
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

    For the isotropic null pass `isotropic_quantile`, the exact law of one layer. It is an upper bound for the
    mean over layers both if null directions are independent between layers and if all layers share one.

    Raises:
        NonFiniteError: if a cosine is NaN (a drift of length zero): it neither exceeds nor falls short.
    """
    if not alignment.isfinite().all():
        raise NonFiniteError("The alignment holds NaN or infinity: at some step and layer there is no drift.")
    return (alignment.mean(-1) > torch.as_tensor(threshold, dtype=alignment.dtype)).double()


@dataclass(frozen=True)
class Null:
    """One null, as tables, claims, figures and docs name it.

    Attributes:
        name: its key in `NULLS`.
        summary: what it draws, for the docs.
        colour: of its lines in figures.
        directions: called as ``directions(reference, aligned, n_draws, seed)`` with activations on the
            prompts of v_rev; None for the isotropic null, whose quantile is exact.
        paper: the paper's share of run-steps above it, as printed there; empty if it has none.
    """

    name: str
    summary: str
    colour: str
    directions: Callable[[Tensor, Tensor, int, int], Tensor] | None = None
    paper: str = ""

    def quantile(
        self,
        drift: Float[Tensor, "step layer d_model"],
        reference: Float[Tensor, "prompt layer d_model"],
        aligned: Float[Tensor, "prompt layer d_model"],
        *,
        n_draws: int,
        seed: int = 0,
        level: float = 0.99,
    ) -> Float[Tensor, " step"]:
        """Quantile of the mean cosine over layers of each step's drift with the null's directions.

        Raises:
            ConfigError, ProbeError, NonFiniteError: see the functions that draw, and `isotropic_quantile`.
        """
        if self.directions is None:
            exact = isotropic_quantile(drift.shape[-1], level)
            return torch.full((len(drift),), exact, dtype=torch.float64)
        drawn = self.directions(reference, aligned, n_draws, seed)
        return NullDistribution.of(drift, drawn, n_prompts=len(aligned)).quantile(level)


#: Every null by name, in the order of tables and figures.
NULLS: Mapping[str, Null] = {
    null.name: null
    for null in (
        Null("isotropic", "directions uniform on the sphere (exact quantile)", "#009E73", paper="24/24"),
        Null(
            "covariance",
            "directions that spread as the aligned model's activations do over prompts",
            "#CC79A7",
            lambda reference, aligned, n_draws, seed: covariance_directions(aligned, n_draws, seed=seed),
            paper="24/24",
        ),
        Null(
            "relabelled",
            "reference minus aligned, with the labels swapped on a random half of the prompts",
            "#E69F00",
            lambda reference, aligned, n_draws, seed: relabelled_directions(
                reference, aligned, n_draws, seed=seed
            ),
        ),
    )
}
