from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from revlens.direction import Reliability, reliability
from revlens.errors import ProbeError


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(differences: Tensor, *, n_splits: int = 50, seed: int = 0) -> Reliability:
    return reliability(differences, torch.zeros_like(differences), n_splits=n_splits, seed=seed)


def common_plus_own_axis(n: int, common: float) -> Tensor:
    """Prompts c + e_i with all of these orthogonal, e_i of length 1 and |c|^2 = common.

    The mean of any m of them is c plus a rest of squared length 1/m that no other prompt shares, so disjoint
    groups of m have cosine common / (common + 1/m), whichever the split is.
    """
    shared = torch.zeros(n, n + 1, dtype=torch.float64)
    shared[:, n] = common**0.5
    return (torch.eye(n, n + 1, dtype=torch.float64) + shared)[:, None]


def test_equal_prompts_are_wholly_reliable() -> None:
    differences = normal(1, 3, 8, seed=0).expand(6, 3, 8)
    found = of(differences)
    for value in (found.half, found.full, found.low, found.high):
        torch.testing.assert_close(value, torch.ones(3, dtype=torch.float64))


def test_pure_noise_has_reliability_zero() -> None:
    """Layers are independent repetitions here; their mean lies within 4 standard errors of 0."""
    half = of(normal(12, 200, 32, seed=1)).half
    assert abs(float(half.mean())) < 4 * float(half.std()) / 200**0.5
    assert float(half.std()) < 0.5  # else the line above would be easy to pass


@pytest.mark.parametrize(
    ("n", "common", "half", "full"), [(4, 0.5, 1 / 2, 2 / 3), (4, 2.0, 4 / 5, 8 / 9), (6, 1.0, 3 / 4, 6 / 7)]
)
def test_spearman_brown_by_hand(n: int, common: float, half: float, full: float) -> None:
    found = of(common_plus_own_axis(n, common))
    assert float(found.half) == pytest.approx(half, rel=1e-12)
    assert float(found.full) == pytest.approx(full, rel=1e-12)
    assert full == pytest.approx(
        common / (common + 1 / n)
    )  # what two estimates from n prompts each would have


def test_full_predicts_the_cosine_of_two_estimates_from_all_prompts() -> None:
    """Signal |c|^2 = 8 and noise 64/16 make r = 8/12. Layers are repetitions: 4 standard errors."""
    signal = torch.zeros(64, dtype=torch.float64)
    signal[0] = 8**0.5
    here, there = (signal + normal(16, 100, 64, seed=seed) for seed in (2, 3))
    predicted = of(here).full
    seen = torch.cosine_similarity(here.mean(0), there.mean(0), dim=-1)
    error = ((predicted.var() + seen.var()) / 100) ** 0.5
    assert abs(float(predicted.mean() - seen.mean())) < 4 * float(error)
    assert abs(float(predicted.mean()) - 8 / 12) < 0.05


def test_more_prompts_are_more_reliable() -> None:
    differences = 0.5 + normal(48, 20, 16, seed=4)
    few, more, most = (of(differences[:n]) for n in (8, 24, 48))
    assert few.full.mean() < more.full.mean() < most.full.mean()
    assert few.half.mean() < more.half.mean() < most.half.mean()


def test_the_correction_raises_positive_values_and_never_past_one() -> None:
    found = of(0.5 + normal(10, 20, 16, seed=5))
    assert (found.half > 0).all()
    assert (found.full > found.half).all()
    assert (found.full < 1).all()


def test_the_interval_is_ordered_and_never_past_one() -> None:
    found = of(0.5 + normal(10, 20, 16, seed=6))
    assert (found.low < found.high).all()
    assert (found.high <= 1).all()


def test_the_interval_leaves_out_one_prompt_at_a_time() -> None:
    """By hand: Tukey's standard error of log(1 - reliability), Student's quantile of n - 1 degrees."""
    differences = 0.5 + normal(5, 1, 8, seed=14)
    logs = []
    for i in range(5):
        rest = torch.cat([differences[:i], differences[i + 1 :]])[:, 0]
        logs.append(math.log(float(rest.var(0).sum() / 4 / rest.mean(0).square().sum())))
    error = (4 / 5 * sum((value - sum(logs) / 5) ** 2 for value in logs)) ** 0.5
    found = of(differences)
    ends = [1 - (1 - float(found.full)) * math.exp(sign * 2.776445105 * error) for sign in (1, -1)]
    assert [float(found.low), float(found.high)] == pytest.approx(ends, rel=1e-8)


def test_prompts_that_are_all_alike_but_one_leave_everything_open() -> None:
    differences = torch.ones(6, 1, 4, dtype=torch.float64)
    differences[0, 0, 0] = 3.0
    found = of(differences)
    assert float(found.low) < 0 < float(found.full) < float(found.high)
    assert float(found.high) > 0.999999


def test_checkpoints_without_a_gap_are_an_error() -> None:
    differences = normal(6, 2, 4, seed=15)
    differences[:, 1] = 0
    with pytest.raises(ProbeError, match="same activations"):
        of(differences)


def test_no_prompt_is_ever_in_both_halves() -> None:
    """Disjoint groups of prompts at right angles have cosine 0; a shared prompt would raise it."""
    found = of(common_plus_own_axis(6, 0.0))
    assert [float(value) for value in (found.half, found.full, found.low, found.high)] == [0.0] * 4


def test_a_clear_direction_has_its_interval_above_zero_and_noise_does_not() -> None:
    noise = normal(16, 4, 32, seed=7)
    assert (of(noise + 2).low > 0.5).all()
    assert (of(noise).low < 0).all()


def test_rotation_scale_sign_and_a_common_offset_change_nothing() -> None:
    reference, aligned = 0.3 + normal(8, 3, 6, seed=8), normal(8, 3, 6, seed=9)
    rotation = torch.linalg.qr(normal(6, 6, seed=10)).Q
    base = reliability(reference, aligned, n_splits=40)
    for other in (
        reliability(reference @ rotation, aligned @ rotation, n_splits=40),
        reliability(100 * reference, 100 * aligned, n_splits=40),
        reliability(aligned, reference, n_splits=40),
        reliability(reference + 7, aligned + 7, n_splits=40),
    ):
        torch.testing.assert_close(other.half, base.half)
        torch.testing.assert_close(other.full, base.full)
        torch.testing.assert_close(other.low, base.low)
        torch.testing.assert_close(other.high, base.high)


def test_layers_do_not_touch_each_other() -> None:
    differences = 0.3 + normal(8, 3, 6, seed=11)
    together, alone = of(differences), of(differences[:, 1:2])
    torch.testing.assert_close(together.full[1:2], alone.full)
    torch.testing.assert_close(together.low[1:2], alone.low)


def test_the_seed_decides_the_splits() -> None:
    differences = normal(8, 3, 6, seed=12)
    first, again, other = of(differences), of(differences), of(differences, seed=1)
    assert torch.equal(first.half, again.half)
    assert torch.equal(first.low, again.low)
    assert not torch.equal(first.half, other.half)


def test_an_odd_number_of_prompts_is_split_nearly_in_half() -> None:
    """Groups of 2 and 3 of the construction have cosine common / sqrt((common + 1/2)(common + 1/3))."""
    assert float(of(common_plus_own_axis(5, 1.0)).half) == pytest.approx(
        1 / (3 / 2 * 4 / 3) ** 0.5, rel=1e-12
    )


def test_fewer_than_four_prompts_are_an_error() -> None:
    with pytest.raises(ProbeError, match="at least 4 prompts, got 3"):
        of(normal(3, 2, 4, seed=13))
    assert of(normal(4, 2, 4, seed=13)).half.isfinite().all()


@pytest.mark.parametrize("noise", [0.5, 2.0, 6.0])
def test_the_interval_holds_its_own_estimate(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = 1.0 + noise * torch.randn(48, 1, 32, generator=generator, dtype=torch.float64)
    result = reliability(reference, torch.zeros_like(reference))
    assert result.low < result.full < result.high
