"""What `locate`, `drift` and `reliability` find in activations of known truth. A run is a layer here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from planted.worlds import World
from revlens.direction import drift, locate, reliability

#: A drift whose cosine with the gap is 0.6.
REVERTING = World(cosine=0.6)


def with_signal_to_noise(world: World, ratio: float) -> World:
    return replace(world, noise_size=(world.gap**2 * world.n_prompts / (2 * ratio)) ** 0.5)


def assert_mean(values: Tensor, expected: Tensor | float, slack: float = 0.01) -> None:
    """Values average to what is expected, up to 4 standard errors and the law's own error, O(1 / d_model)."""
    difference = values - expected
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / len(difference) ** 0.5 + slack


def test_without_noise_everything_is_exact() -> None:
    """What a prompt puts into all checkpoints alike leaves no trace."""
    planted = replace(REVERTING, noise_size=0.0).sample(50, seed=0)
    v_rev = locate(planted.activations)
    motion = drift(planted.activations, v_rev)
    unit = planted.gap / planted.gap.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(v_rev.unit, unit)
    torch.testing.assert_close(motion.vectors[0], planted.drift)
    torch.testing.assert_close(motion.displacement[0], (planted.drift * unit).sum(-1))
    torch.testing.assert_close(motion.fraction[0], (planted.drift * planted.gap).sum(-1))
    torch.testing.assert_close(
        motion.alignment[0], torch.cosine_similarity(planted.drift, planted.gap, dim=-1)
    )


@pytest.mark.parametrize("kind", ["isotropic", "spectrum"])
def test_v_rev_is_found_at_a_signal_to_noise_of_a_hundred(kind: str) -> None:
    planted = with_signal_to_noise(World(moves=kind, content=kind, noise=kind), 100.0).sample(400, seed=1)
    cosines = torch.cosine_similarity(locate(planted.activations).unit, planted.gap, dim=-1)
    assert float(cosines.mean()) > 0.99
    assert float((cosines > 0.99).double().mean()) > (0.99 if kind == "isotropic" else 0.9)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 8.0, 32.0])
def test_the_laws_of_noise(ratio: float) -> None:
    """With s the signal-to-noise of the gap, and of the drift, which is as long:

    v_rev has cosine sqrt(s / (1 + s)) with the truth; reliability tells its square; alignment and fraction
    shrink by s / (1 + s), displacement by its root; on the same prompts the shared start adds 1 / (2 s) to
    the numerator of the alignment.
    """
    planted = with_signal_to_noise(REVERTING, ratio).sample(400, seed=2)
    acts, keep = planted.activations, ratio / (1 + ratio)
    v_rev, true_cosine = locate(acts), torch.cosine_similarity(planted.drift, planted.gap, dim=-1)
    crossed, naive = drift(acts, v_rev), drift(acts, locate(acts, "drift"), naive=True)
    assert_mean(torch.cosine_similarity(v_rev.unit, planted.gap, dim=-1), keep**0.5)
    assert_mean(v_rev.gap.square(), 1 + 1 / ratio)
    assert_mean(crossed.displacement[0], keep**0.5 * true_cosine)
    assert_mean(crossed.fraction[0], keep * true_cosine)
    assert_mean(crossed.alignment[0], keep * true_cosine)
    assert_mean(naive.alignment[0], keep * (true_cosine + 1 / (2 * ratio)))
    assert_mean(
        reliability(acts.at("reference", "direction"), acts.at("aligned", "direction"), n_splits=50).full,
        keep,
        slack=0.02,
    )


def test_the_naive_bias_fades_with_prompts_and_the_cross_fitted_figure_has_none() -> None:
    """No reversion at all; noise of the same size for every number of prompts."""
    bias = []
    for n_prompts in (4, 16, 64):
        acts = World(n_prompts=n_prompts).sample(400, seed=3).activations
        crossed, naive = (
            drift(acts, locate(acts)).alignment[0],
            drift(acts, locate(acts, "drift"), naive=True).alignment[0],
        )
        assert abs(float(crossed.mean())) < 4 * float(crossed.std()) / 400**0.5
        bias.append(float(naive.mean()))
    assert bias == sorted(bias, reverse=True)
    assert bias[0] > 0.2
    assert 0.01 < bias[2] < 0.05


def test_cross_fitting_over_prompts_cannot_remove_what_all_prompts_share() -> None:
    """Training forgets an offset of the aligned model, half as long as the gap: 0.25 / 1.25 of the cosine."""
    acts = World(fluctuation=0.5, noise_size=0.1).sample(400, seed=4).activations
    alignment = drift(acts, locate(acts)).alignment[0]
    assert float(alignment.mean()) == pytest.approx(0.2, abs=0.03)
