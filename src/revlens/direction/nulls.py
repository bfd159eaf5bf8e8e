"""Nulls of the alignment: the cosine that a direction without reversion reaches.

Draws are joint over layers: one draw gives a direction at every layer, so that a statistic over layers, such
as the mean cosine, is compared with the same statistic of each draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.stats import beta, norm, t
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from revlens.direction.locate import unit_vectors
from revlens.errors import ConfigError, NonFiniteError, ProbeError

#: Half the number of bins of the widest cosine. Rounding to them moves a quantile by less than 1 in 10,000.
_HALF_BINS = 512
#: Beyond this many standard deviations a cosine has no weight in double precision.
_REACH = 12.0


def isotropic_quantile(d_model: int, level: float = 0.99) -> float:
    """The exact ``level`` quantile of cos(x, u), for any fixed x and u uniform on the sphere in R^d_model.

    cos^2 follows Beta(1/2, (d-1)/2) and the sign is symmetric, so for level >= 1/2 the quantile is the square
    root of the Beta quantile at 2 * level - 1.

    Raises:
        ConfigError: if ``level`` is not in [0.5, 1) or ``d_model`` < 2.
    """
    _check(d_model, level)
    return float(beta.ppf(2 * level - 1, 0.5, (d_model - 1) / 2) ** 0.5)


def isotropic_mean_quantile(d_model: int, weights: Sequence[float], level: float = 0.99) -> float:
    """The ``level`` quantile of the mean over layers of w_l cos(x_l, u_l), with independent u_l.

    The law of each cosine is exact (see `isotropic_quantile`). Probabilities of bins, which are exact too,
    are convolved over layers; bins are so narrow that the quantile is right to 1 in 10,000.

    Args:
        d_model: dimension of each layer.
        weights: w_l of each layer; ones for a mean cosine.
        level: of the quantile.

    Raises:
        ConfigError: see `isotropic_quantile`; also if there is no layer, or a weight is negative or not
            finite.
    """
    _check(d_model, level)
    sizes = np.asarray(weights, float)
    if sizes.size == 0 or not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ConfigError(f"Weights of layers must be finite, at least 0 and at least one, got {weights}.")
    if not sizes.any():
        return 0.0
    bin_width = min(1.0, _REACH / math.sqrt(d_model)) * sizes.max() / _HALF_BINS
    laws = [_bin_probabilities(d_model, bin_width / size) for size in sizes if size > 0]
    n_bins = sum(len(law) - 1 for law in laws) + 1
    together = np.fft.irfft(np.prod([np.fft.rfft(law, n_bins) for law in laws], axis=0), n_bins)
    # The mass of a bin lies below its upper edge.
    edges = (np.arange(n_bins) - (n_bins - 1) / 2 + 0.5) * bin_width
    return float(np.interp(level, together.clip(0).cumsum(), edges)) / len(sizes)


def _bin_probabilities(d_model: int, width: float) -> Float[ndarray, " bin"]:
    """Of one cosine, in bins of a width, an odd number of them around zero."""
    n = math.ceil(min(1.0, _REACH / math.sqrt(d_model)) / width)
    edges = (np.arange(n + 1) + 0.5) * width
    below = 0.5 + 0.5 * beta.cdf(np.minimum(edges, 1.0) ** 2, 0.5, (d_model - 1) / 2)
    right = np.diff(below)
    return np.concatenate([right[::-1], [2 * below[0] - 1], right])


def _check(d_model: int, level: float) -> None:
    if not 0.5 <= level < 1.0 or d_model < 2:
        raise ConfigError(
            f"isotropic_quantile needs d_model >= 2 and 0.5 <= level < 1, got {d_model} and {level}."
        )


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

    A draw has the same prompt weights at every layer, which keeps the covariance between layers. With fewer
    prompts than dimensions, draws lie in the span of the prompts; a cosine needs no full rank. Shrinkage
    towards the identity would fill the other dimensions, but it makes draws rounder than the activations are
    and the null too lenient (docs/trust.md).

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
    strata: Sequence[str] = (),
    seed: int = 0,
) -> Float[Tensor, "draw layer d_model"]:
    """Matched empirical null: reference minus aligned, with labels swapped on a random half of the prompts.

    Each draw swaps exactly half of the prompts; of an odd number, one at random sits out. The reversion
    common to all prompts then cancels. Free coin flips would leave a random share of it, of the order of
    1/sqrt(n) like the noise itself, and the null would contain the effect that it must lack.

    Args:
        reference, aligned: activations of the same prompts.
        n_draws: directions per layer.
        strata: a request type for each prompt. Half of each type is then swapped, so that the reversion
            common to a type cancels too: without them, draws hold what sets one type apart from another.
        seed: of the draws.

    Raises:
        ProbeError: with fewer than 4 prompts, not counting those that are alone in their stratum; or if
            strata and prompts differ in number.
        NonFiniteError: if the differences do not vary over prompts.
    """
    n = reference.shape[0]
    if strata and len(strata) != n:
        raise ProbeError(f"There are {len(strata)} strata for {n} prompts; give one for each prompt.")
    members = _members(strata or [""] * n)
    if sum(len(group) for group in members if len(group) > 1) < 4:
        raise ProbeError(
            f"Relabelling needs at least 4 prompts that are not alone in their stratum, got {n} prompts"
            + (f" in {len(members)} strata." if strata else ".")
        )
    differences = (reference - aligned).double()
    generator = derive_generator(seed, "relabelled")
    signs = torch.zeros(n_draws, n, dtype=torch.float64)
    for draw in signs:
        for group in members:
            half = len(group) // 2
            order = group[torch.randperm(len(group), generator=generator)]
            draw[order[:half]] = 1.0
            draw[order[half : 2 * half]] = -1.0
    return _normalised(torch.einsum("rn,nld->rld", signs, differences))


def _members(strata: Sequence[str]) -> list[Int[Tensor, " prompt"]]:
    """The prompts of each stratum."""
    return [
        torch.tensor([i for i, own in enumerate(strata) if own == stratum])
        for stratum in dict.fromkeys(strata)
    ]


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
        n_prompts: number of prompts behind the directions, one more than the degrees of freedom of their
            spread; None if they do not come from prompts.
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

    def quantile(
        self, level: float = 0.99, *, weights: Float[Tensor, "step layer"] | None = None
    ) -> Float[Tensor, " step"]:
        """Quantile of the mean over layers of the cosines, times their weights if they have any.

        Directions drawn from n prompts have the spread of that sample. The ratio of Student's quantile to the
        normal one corrects for the error of that spread; without it one test in fifty exceeds p99 at 30
        prompts (docs/trust.md).
        """
        means = (self.cosines if weights is None else self.cosines * weights[:, None]).mean(-1)
        drawn = torch.quantile(means, level, dim=-1)
        return (
            drawn
            if self.n_prompts is None
            else drawn * float(t.ppf(level, self.n_prompts - 1) / norm.ppf(level))
        )


def exceedance(
    alignment: Float[Tensor, "step layer"], threshold: float | Sequence[float] | Tensor
) -> Float[Tensor, " step"]:
    """1.0 at each step whose mean over layers lies above the threshold, else 0.0.

    It serves alignment and reversion fraction alike (see `Null.quantile`).

    Raises:
        NonFiniteError: if a cosine is NaN (a drift of length zero): it neither exceeds nor falls short.
    """
    if not alignment.isfinite().all():
        raise NonFiniteError("The alignment holds NaN or infinity: at some step and layer there is no drift.")
    return (alignment.mean(-1) > torch.as_tensor(threshold, dtype=alignment.dtype)).double()


@dataclass(frozen=True)
class Null:
    """One null, as tables, claims, figures and docs name it.

    A null either has an exact law or draws directions.

    Attributes:
        name: its key in `NULLS`.
        summary: what it draws, for the docs.
        colour: of its lines in figures.
        exact: called as ``exact(d_model, weights, level)``, with a weight for each layer.
        directions: called as ``directions(reference, aligned, n_draws, seed, strata)`` with activations on
            the prompts of v_rev, and their strata.
        stratified: whether strata matter to it.
        paper: what the paper says of the run-steps above it, as printed there; empty if nothing.
        paper_share: the same as a share; None if it prints no count.
    """

    name: str
    summary: str
    colour: str
    exact: Callable[[int, Sequence[float], float], float] | None = None
    directions: Callable[[Tensor, Tensor, int, int, Sequence[str]], Tensor] | None = None
    stratified: bool = False
    paper: str = ""
    paper_share: float | None = None

    def quantile(
        self,
        drift: Float[Tensor, "step layer d_model"],
        reference: Float[Tensor, "prompt layer d_model"],
        aligned: Float[Tensor, "prompt layer d_model"],
        *,
        gap: Float[Tensor, " layer"] | None = None,
        strata: Sequence[str] = (),
        n_draws: int,
        seed: int = 0,
        level: float = 0.99,
    ) -> Float[Tensor, " step"]:
        """Quantile of the mean cosine over layers of each step's drift with the null's directions.

        Args:
            drift: of each step.
            reference, aligned: activations on the prompts of v_rev.
            gap: of v_rev. With it, the quantile is that of the reversion fraction along the same directions,
                mean over layers: each layer's cosine times the length of its drift over its gap.
            strata: the request type of each prompt, or none; see `relabelled_directions`.
            n_draws: directions per layer, where they are drawn.
            seed: of these.
            level: of the quantile.

        Raises:
            ConfigError, ProbeError, NonFiniteError: see the functions that draw, and `isotropic_quantile`.
        """
        weights = None if gap is None else drift.norm(dim=-1) / gap
        if self.exact is not None:
            rows = torch.ones(drift.shape[:2]) if weights is None else weights
            thresholds = [self.exact(drift.shape[-1], row, level) for row in rows.tolist()]
            return torch.tensor(thresholds, dtype=torch.float64)
        assert self.directions is not None
        drawn = self.directions(reference, aligned, n_draws, seed, strata)
        # Each stratum costs a degree of freedom beyond the first's.
        n_fixed = len(set(strata)) - 1 if self.stratified and strata else 0
        distribution = NullDistribution.of(drift, drawn, n_prompts=len(aligned) - n_fixed)
        return distribution.quantile(level, weights=weights)


#: Every null by name, in the order of tables and figures.
NULLS: Mapping[str, Null] = {
    null.name: null
    for null in (
        Null(
            "isotropic",
            "directions uniform on the sphere, one layer's exact quantile: an upper bound over layers",
            "#009E73",
            exact=lambda d_model, weights, level: (
                isotropic_quantile(d_model, level) * sum(weights) / len(weights)
            ),
            paper="24/24",
            paper_share=1.0,
        ),
        Null(
            "isotropic-layers",
            "the same, independent between layers (exact laws, convolved)",
            "#0072B2",
            exact=isotropic_mean_quantile,
        ),
        Null(
            "covariance",
            "directions that spread as the aligned model's activations do over prompts",
            "#CC79A7",
            directions=lambda reference, aligned, n_draws, seed, strata: covariance_directions(
                aligned, n_draws, seed=seed
            ),
        ),
        Null(
            "relabelled",
            "reference minus aligned, with labels swapped on a random half of each request type's prompts",
            "#E69F00",
            directions=lambda reference, aligned, n_draws, seed, strata: relabelled_directions(
                reference, aligned, n_draws, strata=strata, seed=seed
            ),
            stratified=True,
            paper="v2: above it on every Llama trajectory, without a count",
        ),
    )
}
