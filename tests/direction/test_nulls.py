from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.stats import beta, kstest, norm, t
from torch import Tensor

from revlens.direction import ReversionDirection
from revlens.direction.locate import unit_vectors
from revlens.direction.nulls import (
    NULLS,
    NullDistribution,
    covariance_directions,
    exceedance,
    isotropic_directions,
    isotropic_mean_quantile,
    isotropic_quantile,
    relabelled_directions,
)
from revlens.errors import ConfigError, NonFiniteError, ProbeError


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def binomial_tolerance(p: float, n: int) -> float:
    """Four standard errors of a share."""
    return 4 * (p * (1 - p) / n) ** 0.5


ACTS, OTHER = normal(12, 3, 6, seed=0), normal(12, 3, 6, seed=1)
TRUST = Path(__file__).parents[2] / "docs" / "trust.md"


def test_every_null_has_a_row_in_the_docs_and_a_colour_of_its_own() -> None:
    """Its level is held by tests/planted/test_null_calibration.py."""
    rows = re.search(r"\| null \| draws \|\n\|[-|]+\|\n((?:\|.*\n)+)", TRUST.read_text(encoding="utf-8"))
    assert rows is not None
    assert rows[1].splitlines() == [f"| `{name}` | {null.summary} |" for name, null in NULLS.items()]
    assert all(re.fullmatch("#[0-9A-F]{6}", null.colour) for null in NULLS.values())
    assert len({null.colour for null in NULLS.values()}) == len(NULLS)
    assert all(name == null.name for name, null in NULLS.items())


@pytest.mark.parametrize("name", NULLS)
def test_the_quantile_of_a_null_is_that_of_its_directions_with_the_prompts_of_v_rev(name: str) -> None:
    drift, null = normal(4, 3, 6, seed=2), NULLS[name]
    p99 = null.quantile(drift, ACTS, OTHER, n_draws=50, seed=7)
    if null.exact is not None:
        assert p99.tolist() == [null.exact(6, [1.0] * 3, 0.99)] * 4
    else:
        assert null.directions is not None
        drawn = NullDistribution.of(drift, null.directions(ACTS, OTHER, 50, 7, ()), n_prompts=12)
        assert torch.equal(p99, drawn.quantile())


@pytest.mark.parametrize("name", NULLS)
def test_the_quantile_of_a_fraction_is_that_of_displacements_over_gaps(name: str) -> None:
    """Along the same directions as the cosine's; for the one-layer law, along one that all layers share."""
    drift, gap, null = (
        normal(2, 3, 6, seed=2),
        torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64),
        NULLS[name],
    )
    p99 = null.quantile(drift, ACTS, OTHER, gap=gap, n_draws=4000, seed=7)
    if null.directions is not None:
        directions, factor = null.directions(ACTS, OTHER, 4000, 7, ()), t.ppf(0.99, 11) / norm.ppf(0.99)
    else:
        directions, factor = isotropic_directions(100_000, 3, 6), 1.0
    if name == "isotropic":
        cosines = (directions[:, :1, :] * unit_vectors(drift)[0, 0]).sum(-1)
        fractions = (cosines[:, None] * (drift.norm(dim=-1) / gap)).mean(-1).T
    else:
        fractions = (torch.einsum("sld,rld->srl", drift, directions) / gap).mean(-1)
    expected = factor * torch.quantile(fractions, 0.99, dim=-1)
    torch.testing.assert_close(p99, expected, rtol=1e-6 if null.exact is None else 0.03, atol=0)


def test_equal_gaps_and_lengths_make_the_fraction_a_multiple_of_the_cosine() -> None:
    drift, gap = unit_vectors(normal(2, 3, 6, seed=2)), torch.full((3,), 0.25, dtype=torch.float64)
    for null in NULLS.values():
        cosine = null.quantile(drift, ACTS, OTHER, n_draws=50)
        fraction = null.quantile(drift, ACTS, OTHER, gap=gap, n_draws=50)
        torch.testing.assert_close(fraction, 4 * cosine)


@pytest.mark.parametrize("d_model", [2, 3, 16, 576])
def test_over_layers_the_exact_law_is_convolved(d_model: int) -> None:
    one = isotropic_quantile(d_model)
    assert isotropic_mean_quantile(d_model, [1.0]) == pytest.approx(one, rel=1e-4)
    assert isotropic_mean_quantile(d_model, [3.0, 0.0, 0.0]) == pytest.approx(one, rel=1e-4)
    four = isotropic_mean_quantile(d_model, [1.0] * 4)
    assert four < 0.8 * one
    assert isotropic_mean_quantile(d_model, [2.0] * 4) == pytest.approx(2 * four)
    drawn = isotropic_directions(20_000, 4, d_model)[..., 0].mean(-1)
    assert abs(float((drawn > four).double().mean()) - 0.01) < binomial_tolerance(0.01, 20_000)


def test_over_layers_the_quantile_is_known_in_closed_form_for_two_spheres() -> None:
    """In R^3 a cosine is uniform, so that the mean of two has a triangular law."""
    assert isotropic_mean_quantile(3, [1.0, 1.0]) == pytest.approx(1 - 0.02**0.5, rel=1e-4)


def test_many_layers_tend_to_the_normal_law() -> None:
    d_model, n = 64, 80
    assert isotropic_mean_quantile(d_model, [1.0] * n) == pytest.approx(
        norm.ppf(0.99) / (d_model * n) ** 0.5, rel=2e-3
    )


def test_weights_without_meaning_are_errors() -> None:
    for weights in ([], [-1.0, 1.0], [math.nan], [math.inf]):
        with pytest.raises(ConfigError, match="Weights of layers must be finite"):
            isotropic_mean_quantile(8, weights)
    assert isotropic_mean_quantile(8, [0.0, 0.0]) == 0.0


def test_null_directions_are_those_of_the_public_functions() -> None:
    covariance, relabelled = NULLS["covariance"].directions, NULLS["relabelled"].directions
    assert covariance is not None
    assert relabelled is not None
    types = ("a", "b", "c") * 4
    assert torch.equal(covariance(OTHER, ACTS, 9, 3, types), covariance_directions(ACTS, 9, seed=3))
    assert torch.equal(
        relabelled(OTHER, ACTS, 9, 3, types), relabelled_directions(OTHER, ACTS, 9, strata=types, seed=3)
    )


@pytest.mark.parametrize("level", [0.5, 0.75, 0.99, 0.999])
def test_the_quantile_in_two_and_three_dimensions_is_known_in_closed_form(level: float) -> None:
    """On the circle the angle is uniform; on the sphere in R^3 the cosine is (Archimedes)."""
    assert isotropic_quantile(2, level) == pytest.approx(math.cos(math.pi * (1 - level)), abs=1e-9)
    assert isotropic_quantile(3, level) == pytest.approx(2 * level - 1, abs=1e-9)


def test_the_quantile_falls_as_one_over_root_d() -> None:
    quantiles = [isotropic_quantile(d) for d in (2, 3, 8, 128, 4096)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert isotropic_quantile(100_000) == pytest.approx(2.3263 / 100_000**0.5, rel=1e-3)  # the normal limit


@pytest.mark.parametrize("d_model", [2, 3, 16, 128])
def test_the_beta_law_holds_in_monte_carlo(d_model: int) -> None:
    drift, n = normal(1, 1, d_model, seed=2), 20_000
    cosines = NullDistribution.of(
        drift, isotropic_directions(n, 1, d_model), n_prompts=None
    ).cosines.flatten()
    assert kstest(cosines.square().numpy(), beta(0.5, (d_model - 1) / 2).cdf).pvalue > 1e-3
    for level in (0.5, 0.9, 0.99):
        above = float((cosines > isotropic_quantile(d_model, level)).double().mean())
        assert abs(above - (1 - level)) < binomial_tolerance(1 - level, n)


def test_the_one_layer_quantile_is_conservative_for_a_mean_over_independent_layers() -> None:
    bound, drift = isotropic_quantile(16), normal(1, 4, 16, seed=3)
    directions = isotropic_directions(20_000, 4, 16)
    independent = float(NullDistribution.of(drift, directions, n_prompts=None).quantile())
    assert independent < 0.75 * bound  # about 1/2, were the cosines normal
    one_layer_four_times = NullDistribution.of(
        drift[:, :1].expand(1, 4, 16), directions[:, :1].expand(-1, 4, -1), n_prompts=None
    )
    assert float(one_layer_four_times.quantile()) == pytest.approx(bound, rel=0.05)  # the bound is reached


def test_histories_without_reversion_exceed_p99_in_one_of_a_hundred() -> None:
    """All checkpoints differ by sampling noise alone; the naive share shows what cross-fitting avoids."""
    n, prompts, d_model = 5000, 4, 32
    reference, aligned, elsewhere, step, step_here = (
        normal(prompts, n, d_model, seed=seed) for seed in range(4, 9)
    )
    v_rev = ReversionDirection.fit(reference, aligned, layers=tuple(range(n)), split="direction").unit

    def share_above(drift: Tensor) -> float:
        alignment = torch.cosine_similarity(drift.mean(0), v_rev, dim=-1)
        return float(exceedance(alignment[:, None], isotropic_quantile(d_model)).mean())

    assert abs(share_above(step - elsewhere) - 0.01) < binomial_tolerance(0.01, n)
    assert share_above(step_here - aligned) > 0.5


@pytest.mark.parametrize("draw", [
    lambda seed: isotropic_directions(50, 3, 6, seed=seed),
    lambda seed: covariance_directions(ACTS, 50, seed=seed),
    lambda seed: relabelled_directions(ACTS, OTHER, 50, seed=seed),
], ids=["isotropic", "covariance", "relabelled"])  # fmt: skip
def test_draws_are_distinct_unit_vectors_decided_by_the_seed(draw: Callable[[int], Tensor]) -> None:
    directions = draw(0)
    assert directions.shape == (50, 3, 6)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(50, 3, dtype=torch.float64))
    assert torch.equal(draw(0), directions)
    assert not torch.equal(draw(1), directions)
    assert len(directions[:, 0].unique(dim=0)) > 25


def test_isotropic_draws_have_no_preferred_axis_and_independent_layers() -> None:
    directions, n = isotropic_directions(10_000, 2, 5), 10_000
    second_moment = torch.einsum("nld,nle->lde", directions, directions) / n
    torch.testing.assert_close(
        second_moment, torch.eye(5, dtype=torch.float64).expand(2, 5, 5) / 5, rtol=0, atol=4 * 0.3 / n**0.5
    )
    between = (directions[:, 0] * directions[:, 1]).sum(-1)
    assert abs(float(between.mean())) < 4 * (1 / 5 / n) ** 0.5  # a cosine in R^d has variance 1/d


def test_covariance_draws_follow_the_covariance() -> None:
    """u ~ N(0, diag(a^2, b^2)) of norm 1 has E[u_1^2] = a / (a + b): here 3 / 4, on an axis at 30 degrees."""
    axes = torch.tensor([[3**0.5 / 2, 1 / 2], [-1 / 2, 3**0.5 / 2]], dtype=torch.float64)
    prompts = torch.cat([axes * torch.tensor([[3.0], [1.0]]), -axes * torch.tensor([[3.0], [1.0]])]).repeat(
        500, 1
    )
    n, directions = 20_000, covariance_directions(prompts[:, None] + 5.0, 20_000)[:, 0]
    shares = (directions @ axes.T).square().mean(0)
    # u_1^2 lies in [0, 1] and so has a standard deviation of at most 1/2.
    assert abs(float(shares[0]) - 0.75) < 4 * 0.5 / n**0.5
    assert float((directions @ axes[0] * (directions @ axes[1])).mean()) == pytest.approx(
        0, abs=4 * 0.5 / n**0.5
    )


def test_covariance_draws_find_the_top_axis_of_a_sampled_gaussian() -> None:
    axis = unit_vectors(normal(8, seed=10))
    acts, fresh = (
        normal(2000, 8, seed=seed) + 5 * normal(2000, 1, seed=seed + 1) * axis for seed in (11, 13)
    )
    directions = covariance_directions(acts[:, None], 2000)[:, 0]
    _, axes = torch.linalg.eigh(directions.T @ directions)
    assert abs(float(axes[:, -1] @ axis)) > 0.99
    drawn, expected = ((vectors @ axis).square() for vectors in (directions, unit_vectors(fresh)))
    error = float((drawn.var() + expected.var()) / 2000) ** 0.5
    assert (
        abs(float(drawn.mean() - expected.mean())) < 4 * error < 0.1
    )  # isotropic draws would be about 0.5 lower


def test_covariance_draws_keep_the_covariance_between_layers() -> None:
    acts = normal(200, 2, 4, seed=15) * torch.tensor([4.0, 1.0, 1.0, 1.0])

    def cosine_between_layers(values: Tensor) -> float:
        directions = covariance_directions(values, 2000)
        return float((directions[:, 0] * directions[:, 1]).sum(-1).mean())

    assert cosine_between_layers(acts[:, :1].expand(-1, 2, -1)) > 0.9
    assert cosine_between_layers(torch.stack([acts[:, 0], -acts[:, 0]], dim=1)) < -0.9
    # Independent layers: the sample covariance between them is of order 1/sqrt(200), each cosine below 1.
    assert abs(cosine_between_layers(acts)) < 4 * (1 / 200**0.5 + 1 / 2000**0.5)


def test_few_prompts_raise_the_threshold_by_students_quantile() -> None:
    drift, directions = normal(2, 1, 16, seed=1), isotropic_directions(500, 1, 16)
    plain = NullDistribution.of(drift, directions, n_prompts=None).quantile()
    factors = [
        float((NullDistribution.of(drift, directions, n_prompts=n).quantile() / plain)[0])
        for n in (2, 8, 32, 10**6)
    ]
    assert factors == pytest.approx([t.ppf(0.99, n - 1) / norm.ppf(0.99) for n in (2, 8, 32, 10**6)])
    assert factors[-1] == pytest.approx(1.0, abs=1e-4)


def test_scale_and_offset_of_the_activations_do_not_matter_to_covariance_draws() -> None:
    base = covariance_directions(ACTS, 20)
    torch.testing.assert_close(covariance_directions(100 * ACTS, 20), base)
    torch.testing.assert_close(covariance_directions(ACTS + OTHER[:1], 20), base)


@pytest.mark.parametrize("n", [4, 7, 12])
def test_relabelling_cancels_a_shift_common_to_all_prompts(n: int) -> None:
    """The shift has an axis of its own, so that a draw's part along it is what survives of the shift."""
    noise = normal(n, 2, 6, seed=16)
    noise[..., 0] = 0.0
    shifted = noise.clone()
    shifted[..., 0] = 64.0
    directions = relabelled_directions(shifted, torch.zeros_like(shifted), 200)
    assert (directions[..., 0] == 0).all()
    torch.testing.assert_close(directions, relabelled_directions(noise, torch.zeros_like(noise), 200))


@pytest.mark.parametrize(("n", "out"), [(4, 0), (5, 1)])
def test_relabelling_swaps_exactly_half(n: int, out: int) -> None:
    """Prompt i differs along axis i alone, so draws show labels: two swapped, two kept, the odd one out."""
    directions = relabelled_directions(
        torch.eye(n, dtype=torch.float64)[:, None], torch.zeros(n, 1, n, dtype=torch.float64), 2000
    )
    labels = (2 * directions[:, 0]).round()
    torch.testing.assert_close(labels, 2 * directions[:, 0])
    assert ((labels == 1).sum(-1) == 2).all()
    assert ((labels == -1).sum(-1) == 2).all()
    sits_out = (labels == 0).double().mean(0)
    assert ((sits_out - out / n).abs() <= binomial_tolerance(out / n, 2000)).all()
    assert (labels.mean(0).abs() < 4 / 2000**0.5).all()


def test_within_strata_relabelling_cancels_what_sets_a_type_apart() -> None:
    """Types have shifts of their own along axis 0; of type "b" one prompt sits out, type "c" has but one."""
    types = ("a", "b", "a", "b", "a", "b", "a", "c")
    noise = normal(8, 2, 6, seed=16)
    noise[..., 0] = 0.0
    shifted = noise.clone()
    shifted[..., 0] = torch.tensor([{"a": 64.0, "b": -8.0, "c": 3.0}[kind] for kind in types])[:, None]
    zero = torch.zeros_like(noise)
    directions = relabelled_directions(shifted, zero, 200, strata=types)
    assert (directions[..., 0] == 0).all()
    torch.testing.assert_close(directions, relabelled_directions(noise, zero, 200, strata=types))
    assert (relabelled_directions(shifted, zero, 200)[..., 0] != 0).any()


def test_within_strata_half_of_each_is_swapped() -> None:
    types = ("a", "b", "a", "b", "a", "b", "a", "c")
    axes = torch.eye(8, dtype=torch.float64)[:, None]
    signs = relabelled_directions(axes, torch.zeros_like(axes), 500, strata=types)[:, 0].sign()
    for kind, each in (("a", 2), ("b", 1), ("c", 0)):
        own = signs[:, [i for i, t in enumerate(types) if t == kind]]
        assert ((own == 1).sum(-1) == each).all()
        assert ((own == -1).sum(-1) == each).all()
    assert (signs.mean(0).abs() < 4 / 500**0.5).all()


def test_one_stratum_is_none_and_strata_cost_degrees_of_freedom() -> None:
    assert torch.equal(
        relabelled_directions(ACTS, OTHER, 30, strata=["a"] * 12), relabelled_directions(ACTS, OTHER, 30)
    )
    drift, types, null = normal(2, 3, 6, seed=2), ("a", "b", "c") * 4, NULLS["relabelled"]
    drawn = relabelled_directions(ACTS, OTHER, 50, strata=types)
    expected = NullDistribution.of(drift, drawn, n_prompts=10).quantile()
    assert torch.equal(null.quantile(drift, ACTS, OTHER, strata=types, n_draws=50), expected)


def test_relabelling_swaps_a_prompt_at_all_layers_together() -> None:
    reference = ACTS[:, :1].expand(-1, 3, -1)
    directions = relabelled_directions(reference, torch.zeros_like(reference), 30)
    assert torch.equal(directions[:, 0], directions[:, 2])


def test_swapping_reference_and_aligned_flips_every_relabelled_draw() -> None:
    assert torch.equal(relabelled_directions(OTHER, ACTS, 30), -relabelled_directions(ACTS, OTHER, 30))


def test_cosines_and_quantiles_by_hand() -> None:
    """Cosines are (1, 0, 3/5) at layer 0 and (0, 1, 4/5) at layer 1; the second step is minus the first."""
    drift = torch.tensor([[[2.0, 0.0], [0.0, 7.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    directions = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], [[0.6, 0.8], [0.6, 0.8]]])
    null = NullDistribution.of(drift, directions, n_prompts=None)
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    torch.testing.assert_close(null.cosines, torch.stack([first, -first]))
    torch.testing.assert_close(
        null.quantile(1.0), torch.tensor([0.7, -0.5])
    )  # means over layers: 0.5, 0.5, 0.7
    torch.testing.assert_close(null.quantile(0.5), torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(null.quantile(0.75), torch.tensor([0.6, -0.5]))


def test_exceedance_compares_the_mean_over_layers_strictly() -> None:
    alignment = torch.tensor([[0.75, 0.25], [0.5, 0.75], [-1.0, 0.5]])  # means 0.5, 0.625, -0.25
    assert exceedance(alignment, 0.5).tolist() == [0.0, 1.0, 0.0]
    assert exceedance(alignment, [0.25, 0.75, -0.5]).tolist() == [1.0, 0.0, 1.0]
    assert exceedance(alignment, torch.tensor([0.25, 0.75, -0.5])).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(("d_model", "level"), [(1, 0.99), (8, 0.49), (8, 1.0), (8, 1.5)])
def test_a_quantile_without_meaning_is_an_error(d_model: int, level: float) -> None:
    with pytest.raises(ConfigError, match=f"0.5 <= level < 1, got {d_model} and {level}"):
        isotropic_quantile(d_model, level)


def test_too_few_prompts_are_errors() -> None:
    with pytest.raises(ProbeError, match="at least 2 prompts, got 1"):
        covariance_directions(ACTS[:1], 5)
    with pytest.raises(ProbeError, match="at least 4 prompts .* got 3 prompts"):
        relabelled_directions(ACTS[:3], OTHER[:3], 5)
    with pytest.raises(ProbeError, match="not alone in their stratum, got 6 prompts in 4 strata"):
        relabelled_directions(ACTS[:6], OTHER[:6], 5, strata=tuple("aaabcd"))
    with pytest.raises(ProbeError, match="There are 3 strata for 6 prompts"):
        relabelled_directions(ACTS[:6], OTHER[:6], 5, strata=tuple("aab"))
    assert covariance_directions(ACTS[:2], 5).isfinite().all()
    assert relabelled_directions(ACTS[:4], OTHER[:4], 5).isfinite().all()


def test_directions_without_length_are_errors() -> None:
    same = torch.ones(6, 2, 4, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="do not vary"):
        covariance_directions(same, 10)
    with pytest.raises(NonFiniteError, match="do not vary"):
        relabelled_directions(2 * same, same, 10)


def test_no_drift_neither_exceeds_nor_falls_short() -> None:
    with pytest.raises(NonFiniteError, match="no drift"):
        exceedance(torch.tensor([[float("nan"), 0.9]], dtype=torch.float64), 0.1)
