from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import (
    ARMS,
    L2SP,
    METHODS,
    AdaptiveBlock,
    Block,
    ComplementBlock,
    ConceptAblation,
    FinetuneConfig,
    FreezeLayers,
    GradientProjection,
    Guard,
    HiddenStateAnchor,
    KLAnchor,
    Push,
    RandomDirectionBlock,
    Rehearsal,
    SafeLoRA,
    finetune,
    make_guard,
)

DATA = Dataset.from_dict({"prompt": ["A?", "Now what?"], "answer": ["Sure, at once.", "Of course."]})
REFUSALS = Dataset.from_dict({"prompt": ["C?"], "answer": ["I can't help with that."]})


@pytest.fixture(scope="module")
def v_rev(history: TrainingHistory, probes: Probes) -> ReversionDirection:
    reference, aligned = (
        read_prompts(c.load(), probes["direction"], Sites(layers=(0, 2)))
        for c in (history.reference, history.aligned)
    )
    return ReversionDirection.fit(reference, aligned, layers=(0, 2), split="direction")


def guard_of(arm: str, v_rev: ReversionDirection, aligned: TransformerBridge, seed: int = 0) -> Block | Push:
    guard = make_guard(arm, v_rev, aligned, ("A?", "B?"), strength=3.0, seed=seed)
    assert isinstance(guard, Block | Push)
    return guard


def test_the_baseline_has_no_guard(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    assert make_guard("baseline", v_rev, aligned, ("A?",), strength=1.0, seed=0) is None
    assert make_guard("baseline", v_rev, aligned, ("A?",), seed=0) is None


def test_each_other_arm_has_its_own_term_at_the_same_strength(
    v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    guards = {arm: guard_of(arm, v_rev, aligned) for arm in ARMS if arm != "baseline"}
    assert {arm: type(guard) for arm, guard in guards.items()} == {
        "block": Block,
        "push": Push,
        "random": RandomDirectionBlock,
    }
    assert {guard.strength for guard in guards.values()} == {3.0}
    assert all(isinstance(guard, Guard) for guard in guards.values())


def test_arms_differ_in_nothing_but_the_direction(
    v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    block, push, random = (guard_of(arm, v_rev, aligned).motion for arm in ("block", "push", "random"))
    for motion in (push, random):
        assert torch.equal(motion.batch.tokens, block.batch.tokens)
        assert torch.equal(motion.start, block.start)
        assert torch.equal(motion.gap, block.gap)
        assert motion.layers == block.layers == (0, 2)
    assert torch.equal(push.unit, block.unit)
    torch.testing.assert_close(block.unit, v_rev.unit.float(), rtol=0, atol=0)


def test_the_random_arm_has_unit_directions_other_than_v_rev(
    v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
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
    with pytest.raises(
        ConfigError,
        match="Unknown arm 'pull'; expected one of baseline, block, push, random, complement, adaptive, projection",
    ):
        make_guard("pull", v_rev, aligned, ("A?",), strength=1.0, seed=0)


@pytest.mark.parametrize("strength", [None, 0.0, -1.0, -math.inf])
def test_a_strength_must_be_positive(
    v_rev: ReversionDirection, aligned: TransformerBridge, strength: float | None
) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"strength {strength} must be positive \(weight of the term\); use the baseline arm",
    ):
        make_guard("block", v_rev, aligned, ("A?",), strength=strength, seed=0)


#: A strength that each arm takes, and what it makes.
STRENGTHS: dict[str, tuple[float | None, type[Guard]]] = {
    "block": (2.0, Block),
    "push": (2.0, Push),
    "random": (2.0, RandomDirectionBlock),
    "complement": (2.0, ComplementBlock),
    "adaptive": (0.05, AdaptiveBlock),
    "projection": (None, GradientProjection),
    "ablation": (None, ConceptAblation),
    "clamp": (None, ConceptAblation),
    "rehearsal": (0.2, Rehearsal),
    "l2sp": (2.0, L2SP),
    "kl": (2.0, KLAnchor),
    "anchor": (2.0, HiddenStateAnchor),
    "safe_lora": (0.5, SafeLoRA),
    "freeze": (0.5, FreezeLayers),
}


def test_every_method_has_a_case() -> None:
    assert STRENGTHS.keys() | {"baseline"} == METHODS.keys()
    assert METHODS.keys() >= set(ARMS)


@pytest.mark.parametrize("arm", STRENGTHS)
def test_every_method_trains_and_does_something(
    arm: str, v_rev: ReversionDirection, history: TrainingHistory
) -> None:
    strength, kind = STRENGTHS[arm]

    def trained(arm: str, strength: float | None) -> Tensor:
        model = history.aligned.load()
        guard = make_guard(
            arm,
            v_rev,
            model,
            ("A?", "B?"),
            strength=strength,
            seed=0,
            refusals=REFUSALS,
            reference=history.reference.load(),
        )
        assert guard is None or type(guard) is kind
        finetune(model, DATA, FinetuneConfig(steps=3, learning_rate=3e-3, batch_size=2), seed=0, guard=guard)
        return torch.cat([w.detach().flatten() for w in model.parameters()])

    if arm == "adaptive":
        strength = 1e-3  # a budget that three updates exceed
    assert not torch.equal(trained(arm, strength), trained("baseline", None))


def test_clamp_and_ablation_differ_in_the_coordinate(
    v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    clamp, ablation = (make_guard(arm, v_rev, aligned, ("A?", "B?"), seed=0) for arm in ("clamp", "ablation"))
    assert isinstance(clamp, ConceptAblation)
    assert isinstance(ablation, ConceptAblation)
    assert ablation.coordinates == {0: 0.0, 2: 0.0}
    mean = read_prompts(aligned, ("A?", "B?"), Sites(layers=(0, 2))).mean(0)
    assert list(clamp.coordinates.values()) == pytest.approx(
        (mean * v_rev.unit.float()).sum(-1).tolist(), rel=1e-4
    )


def test_the_share_of_frozen_layers_counts_from_the_first(
    v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    def layers(share: float) -> tuple[int, ...]:
        guard = make_guard("freeze", v_rev, aligned, (), strength=share, seed=0)
        assert isinstance(guard, FreezeLayers)
        return guard.layers

    assert [layers(share) for share in (0.01, 1 / 3, 0.5, 1.0)] == [(0,), (0,), (0, 1), (0, 1, 2)]
    with pytest.raises(ConfigError, match=r"A share of 1.5 layers cannot be frozen"):
        layers(1.5)


def test_what_an_arm_needs_is_told(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="'projection' has no strength; leave out strength=2.0"):
        make_guard("projection", v_rev, aligned, ("A?",), strength=2.0, seed=0)
    with pytest.raises(ConfigError, match="'rehearsal' needs refusals"):
        make_guard("rehearsal", v_rev, aligned, ("A?",), strength=0.2, seed=0)
    with pytest.raises(ConfigError, match="'safe_lora' needs reference"):
        make_guard("safe_lora", v_rev, aligned, ("A?",), strength=0.2, seed=0)
