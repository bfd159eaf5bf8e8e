"""Drift and displacement of the mean probe activation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import GuardError, NonFiniteError, ProbeError
from revlens.history import TrainingHistory, boot
from revlens.prompts import Probes, encode_prompts
from revlens.training import Block, ProbeMotion, Push
from training.fine_tunes import located, motion_along


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, probes: Probes) -> ProbeMotion:
    """Motion on the guard probes, along the v_rev of these same probes."""
    return motion_along(history, probes["guard"], probes["guard"])


def test_displacement_is_zero_at_the_aligned_model_and_the_gap_at_the_reference(
    motion: ProbeMotion, history: TrainingHistory
) -> None:
    assert motion.displacement(history.aligned.load()).tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(
        motion.displacement(history.reference.load()), motion.gap, rtol=1e-4, atol=1e-5
    )


def test_displacement_is_the_drift_of_bare_forward_passes_projected_on_the_direction(
    motion: ProbeMotion, history: TrainingHistory, probes: Probes
) -> None:
    def mean(model: TransformerBridge, layer: int) -> Tensor:
        caches = [
            model.run_with_cache(torch.tensor([row]))[1]
            for row in encode_prompts(model.tokenizer, probes["guard"])
        ]
        return torch.stack([cache[f"blocks.{layer}.hook_out"][0, -1] for cache in caches]).mean(0)

    before, after = history.aligned.load(), history[3].load()
    by_hand = [torch.dot(mean(after, layer) - mean(before, layer), motion.unit[layer]) for layer in range(3)]
    torch.testing.assert_close(motion.displacement(after), torch.stack(by_hand), rtol=1e-3, atol=1e-5)


def test_the_order_of_the_prompts_does_not_matter(
    motion: ProbeMotion, history: TrainingHistory, probes: Probes
) -> None:
    backwards = probes["guard"][::-1]
    other = ProbeMotion.along(located(history, backwards), history.aligned.load(), backwards)
    model = history[3].load()
    torch.testing.assert_close(other.displacement(model), motion.displacement(model), rtol=1e-3, atol=1e-5)


def test_against_the_direction_the_displacement_changes_sign(
    motion: ProbeMotion, history: TrainingHistory
) -> None:
    model = history.reference.load()
    against = replace(motion, unit=-motion.unit)
    torch.testing.assert_close(against.displacement(model), -motion.displacement(model))
    assert Block(motion, strength=1.0).term(model) > 0
    assert Block(against, strength=1.0).term(model) == 0


def test_some_layers_move_as_they_do_among_all(
    motion: ProbeMotion, history: TrainingHistory, probes: Probes
) -> None:
    some = ProbeMotion.along(
        located(history, probes["guard"], layers=(0, 2)), history.aligned.load(), probes["guard"]
    )
    model = history[3].load()
    torch.testing.assert_close(some.displacement(model), motion.displacement(model)[[0, 2]])


def test_a_direction_of_another_width_or_depth_is_an_error(
    history: TrainingHistory, probes: Probes, other_width: Path
) -> None:
    v_rev = located(history, probes["guard"])
    with pytest.raises(
        GuardError, match=r"layers \(0, 1, 2\) of width 16; the model has 3 layers of width 32"
    ):
        ProbeMotion.along(v_rev, boot(other_width), probes["guard"])
    with pytest.raises(
        GuardError, match=r"layers \(0, 1, 3\) of width 16; the model has 3 layers of width 16"
    ):
        ProbeMotion.along(replace(v_rev, layers=(0, 1, 3)), history.aligned.load(), probes["guard"])


def test_chosen_layers_are_some_of_v_revs(
    motion: ProbeMotion, history: TrainingHistory, aligned: TransformerBridge, probes: Probes
) -> None:
    v_rev, tuned = located(history, probes["guard"]), history[3].load()
    chosen = ProbeMotion.along(v_rev, aligned, probes["guard"], layers=(1, 2))
    torch.testing.assert_close(chosen.displacement(tuned), motion.displacement(tuned)[1:])
    for layers in ((), (2, 1), (0, 5)):
        with pytest.raises(GuardError, match=r"must be some of v_rev's, in their order: \(0, 1, 2\)"):
            ProbeMotion.along(v_rev, aligned, probes["guard"], layers=layers)


def test_a_guard_without_prompts_or_with_a_broken_model_is_an_error(
    history: TrainingHistory, aligned: TransformerBridge, probes: Probes
) -> None:
    v_rev = located(history, probes["guard"])
    with pytest.raises(ProbeError, match="No prompts"):
        ProbeMotion.along(v_rev, aligned, [])
    with torch.no_grad():
        aligned.state_dict()["blocks.1.mlp.out.weight"].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="resid_post at layer 1 is not finite"):
        ProbeMotion.along(v_rev, aligned, probes["guard"])


@pytest.mark.parametrize("guard", [Block, Push])
def test_a_guard_that_cannot_act_says_so(
    motion: ProbeMotion, aligned: TransformerBridge, guard: type[Block] | type[Push]
) -> None:
    with torch.no_grad(), pytest.raises(GuardError, match="is the model frozen or under no_grad"):
        guard(motion, strength=1.0).term(aligned)
    aligned.requires_grad_(False)
    with pytest.raises(GuardError, match="is the model frozen or under no_grad"):
        guard(motion, strength=1.0).term(aligned)
