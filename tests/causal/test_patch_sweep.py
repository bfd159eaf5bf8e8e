"""Statistics of patching sweeps, on sweeps whose effects are given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformer_lens.patching import PatchingResult, make_df_from_ranges

from revlens.causal import PatchSweep
from revlens.errors import ConfigError, NonFiniteError


def sweep_of(effect: Tensor, gap: Tensor, rounding: float = 0.0) -> PatchSweep:
    """A sweep with effects [layer pos prompt] on a baseline of one nat."""
    baseline = torch.ones(len(gap))
    index = make_df_from_ranges(effect.shape[:2], ["layer", "pos"])
    result = PatchingResult(
        baseline + effect, ["layer", "pos"], index, ["metric"], reduced=False, baseline=baseline
    )
    n_layers, n_positions = effect.shape[:2]
    return PatchSweep(
        result,
        baseline + gap,
        tuple(range(n_layers)),
        tuple(range(-n_positions, 0)),
        "resid_post",
        "full",
        rounding,
    )


def test_recovered_is_a_ratio_of_means() -> None:
    # One prompt has no gap at all: its own ratio has no value, the ratio of means has.
    sweep = sweep_of(torch.tensor([[[1.0, 1.0, 0.0], [2.0, 4.0, 0.0]]]), torch.tensor([2.0, 4.0, 0.0]))
    torch.testing.assert_close(sweep.recovered(), torch.tensor([[1 / 3, 1.0]]))


def test_r2_is_one_for_a_full_patch_and_zero_for_the_mean_gap_on_every_prompt() -> None:
    gap = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, sum of squares about it 14
    effects = torch.stack([gap, gap.mean().expand(4), torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4)])
    sweep = sweep_of(effects[:, None], gap)
    expected = torch.tensor([1.0, 0.0, 1 - 4 / 14, 1 - 50 / 14])
    torch.testing.assert_close(sweep.per_prompt_r2()[:, 0], expected)
    torch.testing.assert_close(sweep.recovered()[:2, 0], torch.tensor([1.0, 1.0]))  # blind to the difference
    table = sweep.to_dataframe()
    assert table["r2"].tolist() == pytest.approx(expected.tolist())
    assert table["gap"].tolist() == [3.0] * 4


def test_without_a_spread_of_the_gap_there_is_no_r2() -> None:
    assert sweep_of(torch.ones(1, 1, 4), torch.full((4,), 2.0)).per_prompt_r2().isnan().all()


def test_a_constant_share_of_the_gap_is_recovered_without_doubt() -> None:
    gap = torch.tensor([2.0, 3.0, 1.0, 5.0, 4.0, 2.5])
    sweep = sweep_of(torch.stack([0.25 * gap, -gap])[None], gap)
    low, high = sweep.recovered_interval()
    torch.testing.assert_close(low, torch.tensor([[0.25, -1.0]]))
    torch.testing.assert_close(high, torch.tensor([[0.25, -1.0]]))


def test_intervals_hold_the_estimate_and_shrink_with_prompts() -> None:
    generator = torch.Generator().manual_seed(0)
    widths = []
    for n in (10, 160):
        gap = 2 + torch.randn(n, generator=generator)
        sweep = sweep_of((0.5 * gap + torch.randn(n, generator=generator))[None, None], gap)
        low, high = sweep.recovered_interval()
        assert low < sweep.recovered() < high
        widths.append(float(high - low))
    assert widths[1] < widths[0] / 2


def test_no_interval_where_the_gap_may_be_zero() -> None:
    sweep = sweep_of(torch.ones(1, 1, 4), torch.tensor([1.0, -1.0, 2.0, -1.5]))
    low, high = sweep.recovered_interval()
    assert (low == -torch.inf).all()
    assert (high == torch.inf).all()


def test_equal_means_leave_nothing_to_recover() -> None:
    with pytest.raises(NonFiniteError, match="equal mean metrics"):
        sweep_of(torch.ones(1, 1, 2), torch.tensor([1.0, -1.0])).recovered()
    with pytest.raises(NonFiniteError, match="equal mean metrics"):
        sweep_of(torch.ones(1, 1, 2), torch.tensor([1e-4, 2e-4]), rounding=1e-3).to_dataframe()


def test_p_values_are_exact_with_few_prompts_and_blind_to_rounding() -> None:
    effect = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [1e-6, 1e-6, 1e-6, 1e-6]]])
    torch.testing.assert_close(sweep_of(effect, torch.ones(4)).p_values(), torch.tensor([[2 / 16, 2 / 16]]))
    torch.testing.assert_close(
        sweep_of(effect, torch.ones(4), rounding=2e-6).p_values(), torch.tensor([[2 / 16, 1.0]])
    )


def test_discoveries_are_corrected_for_the_number_of_sites() -> None:
    n = 8  # the smallest p-value is 2 / 256
    strong, weak = torch.ones(n) + 0.1 * torch.arange(n), torch.tensor([1.0, -1.0] * (n // 2))
    few = sweep_of(torch.stack([strong, weak])[None], torch.ones(n))
    assert few.significant().tolist() == [[True, False]]
    many = sweep_of(torch.stack([strong, *[weak] * 20])[None], torch.ones(n))
    assert not many.significant().any()
    assert many.significant(rate=0.5).sum() == 1


def test_levels_must_be_probabilities() -> None:
    sweep = sweep_of(torch.ones(1, 1, 3), torch.ones(3))
    with pytest.raises(ConfigError, match="confidence=95.0 must be between 0 and 1"):
        sweep.recovered_interval(confidence=95.0)
    with pytest.raises(ConfigError, match="rate=0.0 must be between 0 and 1"):
        sweep.significant(rate=0.0)
    with pytest.raises(ConfigError, match="at least 2"):
        sweep_of(torch.ones(1, 1, 1), torch.ones(1)).recovered_interval()
