"""The adaptive block keeps its budget, by multipliers that follow the excess."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import AdaptiveBlock, ProbeMotion
from training.fine_tunes import CONFIG, motion_along, trained, weights


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, probes: Probes) -> ProbeMotion:
    return motion_along(history, probes["direction"], probes["guard"])


def test_the_adaptive_block_keeps_its_budget_and_rests_within_it(
    history: TrainingHistory, motion: ProbeMotion
) -> None:
    config = replace(CONFIG, steps=25)
    free = trained(history, None, config)
    worst = (motion.displacement(free) / motion.gap).max().item()
    budget = worst / 4
    guard = AdaptiveBlock(motion, budget)
    held = trained(history, guard, config)
    assert (motion.displacement(held) / motion.gap).max().item() <= 1.2 * budget
    assert guard.multipliers is not None
    idle = AdaptiveBlock(motion, 0.99)
    assert torch.equal(weights(trained(history, idle)), weights(trained(history, None)))
    assert idle.penalty == 1.0


def test_multipliers_rise_with_the_excess_and_fall_within_the_budget(
    motion: ProbeMotion, aligned: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions = iter(torch.tensor([[0.3, 0.1, 0.0], [0.2, 0.1, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    monkeypatch.setattr(ProbeMotion, "displacement", lambda self, model: next(fractions) * self.gap)
    guard = AdaptiveBlock(motion, 0.1)
    for expected, penalty in (([0.2, 0, 0], 1.0), ([0.3, 0, 0], 1.0), ([0.5, 0, 0], 2.0), ([0.3, 0, 0], 2.0)):
        guard.term(aligned)
        assert guard.multipliers is not None
        torch.testing.assert_close(guard.multipliers, torch.tensor(expected), atol=1e-6, rtol=1e-4)
        assert guard.penalty == penalty


@pytest.mark.parametrize("budget", [-0.1, 1.0, math.nan])
def test_a_budget_is_a_fraction(motion: ProbeMotion, budget: float) -> None:
    with pytest.raises(ConfigError, match=f"budget={budget} is a reversion fraction"):
        AdaptiveBlock(motion, budget)
