from __future__ import annotations

import math

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import ARMS, Block, Guard, Push, make_guard


@pytest.fixture(scope="module")
def v_rev(history: TrainingHistory, probes: Probes) -> ReversionDirection:
    reference, aligned = (read_prompts(c.load(), probes["direction"], Sites(layers=(0, 2))) for c in (history.reference, history.aligned))
    return ReversionDirection.fit(reference, aligned, layers=(0, 2), split="direction")


def guard_of(arm: str, v_rev: ReversionDirection, aligned: TransformerBridge, seed: int = 0) -> Block | Push:
    guard = make_guard(arm, v_rev, aligned, ("A?", "B?"), strength=3.0, seed=seed)
    assert isinstance(guard, Block | Push)
    return guard


def test_the_baseline_has_no_guard(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    assert make_guard("baseline", v_rev, aligned, ("A?",), strength=1.0, seed=0) is None


def test_each_other_arm_has_its_own_term_at_the_same_strength(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    guards = {arm: guard_of(arm, v_rev, aligned) for arm in ARMS if arm != "baseline"}
    assert {arm: type(guard) for arm, guard in guards.items()} == {"block": Block, "push": Push, "random": Block}
    assert {guard.strength for guard in guards.values()} == {3.0}
    assert all(isinstance(guard, Guard) for guard in guards.values())


def test_arms_differ_in_nothing_but_the_direction(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    block, push, random = (guard_of(arm, v_rev, aligned).motion for arm in ("block", "push", "random"))
    for motion in (push, random):
        assert torch.equal(motion.batch.tokens, block.batch.tokens)
        assert torch.equal(motion.start, block.start)
        assert torch.equal(motion.gap, block.gap)
        assert motion.sites == block.sites == Sites(layers=(0, 2))
    assert torch.equal(push.unit, block.unit)
    torch.testing.assert_close(block.unit, v_rev.unit.float(), rtol=0, atol=0)


def test_the_random_arm_has_unit_directions_other_than_v_rev(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    unit = guard_of("random", v_rev, aligned).motion.unit
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(2))
    cosines = (unit * v_rev.unit.float()).sum(-1)
    assert (cosines.abs() < 0.9).all()
    assert abs((unit[0] @ unit[1]).item()) < 0.9  # drawn for each layer


def test_the_seed_fixes_the_random_directions(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    torch.manual_seed(0)
    first = guard_of("random", v_rev, aligned, seed=5).motion.unit
    torch.manual_seed(1)
    assert torch.equal(guard_of("random", v_rev, aligned, seed=5).motion.unit, first)
    assert not torch.equal(guard_of("random", v_rev, aligned, seed=6).motion.unit, first)


def test_an_unknown_arm_names_those_there_are(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="Unknown arm 'pull'; expected one of baseline, block, push, random"):
        make_guard("pull", v_rev, aligned, ("A?",), strength=1.0, seed=0)


@pytest.mark.parametrize("strength", [0.0, -1.0, -math.inf])
def test_a_strength_must_be_positive(v_rev: ReversionDirection, aligned: TransformerBridge, strength: float) -> None:
    with pytest.raises(ConfigError, match=f"strength {strength} must be positive; use the baseline arm"):
        make_guard("block", v_rev, aligned, ("A?",), strength=strength, seed=0)
