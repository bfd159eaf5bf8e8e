"""Block and the variants of its penalty, in exact cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import Block, ComplementBlock, ProbeMotion, Push, RandomDirectionBlock, SubspaceBlock
from training.fine_tunes import motion_along


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, probes: Probes) -> ProbeMotion:
    """Motion on the guard probes, along the v_rev of these same probes."""
    return motion_along(history, probes["guard"], probes["guard"])


def fabricate(monkeypatch: pytest.MonkeyPatch, p: Tensor) -> None:
    monkeypatch.setattr(ProbeMotion, "displacement", lambda self, model: p)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ((2.0, -3.0, 1.0), 0.5 * (4 + 0 + 1) / 3),
        ((-1.0, -2.0, -0.1), 0.0),
        ((0.0, 0.0, 0.0), 0.0),
        ((-9.0, 0.0, 0.3), 0.5 * 0.09 / 3),
    ],
)
def test_block_is_the_mean_square_of_positive_motion(
    motion: ProbeMotion,
    aligned: TransformerBridge,
    monkeypatch: pytest.MonkeyPatch,
    p: tuple[float, ...],
    expected: float,
) -> None:
    fabricate(monkeypatch, torch.tensor(p))
    assert Block(motion, strength=0.5).term(aligned).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ((0.25, 3.0, -1.0), 2.0 * (0.25**2 + 0 + 3**2) / 3),  # half of the gaps 1, 2 and 4 is 0.5, 1 and 2
        ((0.0, 0.0, 0.0), 2.0 * (0.25 + 1 + 4) / 3),
        ((0.5, 1.0, 2.0), 0.0),
        ((0.6, 70.0, 2.1), 0.0),
    ],
)
def test_push_is_the_mean_square_of_the_shortfall_and_rests_beyond_its_target(
    motion: ProbeMotion,
    aligned: TransformerBridge,
    monkeypatch: pytest.MonkeyPatch,
    p: tuple[float, ...],
    expected: float,
) -> None:
    fabricate(monkeypatch, torch.tensor(p))
    push = Push(replace(motion, gap=torch.tensor([1.0, 2.0, 4.0])), strength=2.0, target=0.5)
    assert push.term(aligned).item() == pytest.approx(expected)


def test_block_pulls_back_and_push_pulls_forward(
    motion: ProbeMotion, aligned: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = torch.tensor([1.5, -1.0, 0.0], requires_grad=True)
    fabricate(monkeypatch, p)
    (of_block,) = torch.autograd.grad(Block(motion, strength=3.0).term(aligned), [p])
    torch.testing.assert_close(of_block, torch.tensor([2 * 3 * 1.5 / 3, 0.0, 0.0]))
    push = Push(replace(motion, gap=torch.tensor([1.0, 2.0, 4.0])), strength=3.0)
    (of_push,) = torch.autograd.grad(push.term(aligned), [p])
    torch.testing.assert_close(of_push, torch.tensor([0.0, -2 * 3 * 3 / 3, -2 * 3 * 4 / 3]))


def test_at_the_aligned_model_block_does_nothing_and_push_does(
    motion: ProbeMotion, aligned: TransformerBridge
) -> None:
    block = Block(motion, strength=7.0).term(aligned)
    block.backward()
    assert block.item() == 0
    assert all(w.grad is None or not w.grad.any() for w in aligned.parameters())  # relu'(0) = 0
    push = Push(motion, strength=7.0).term(aligned)
    push.backward()
    assert push.item() == pytest.approx(7.0 * motion.gap.square().mean().item())
    assert any(w.grad is not None and w.grad.any() for w in aligned.parameters())


def test_the_complement_and_the_direction_make_up_the_drift(
    history: TrainingHistory, motion: ProbeMotion
) -> None:
    model = history[3].load()
    drift, p = motion.drift(model), motion.displacement(model)
    whole = drift.square().sum(-1).mean()
    torch.testing.assert_close(ComplementBlock(motion, 1.0).term(model) + p.square().mean(), whole)
    unit = {layer: motion.unit[i] for i, layer in enumerate(motion.layers)}
    torch.testing.assert_close(SubspaceBlock.within(motion, unit, 1.0).term(model), p.square().mean())
    everything = SubspaceBlock.within(motion, dict.fromkeys(motion.layers, torch.eye(16)), 1.0)
    torch.testing.assert_close(everything.term(model), whole)
    against = replace(motion, unit=-motion.unit)
    torch.testing.assert_close(
        Block(motion, 1.0).term(model) + Block(against, 1.0).term(model), p.square().mean()
    )


def test_a_subspace_for_each_layer_is_needed(motion: ProbeMotion) -> None:
    with pytest.raises(SiteError, match="no direction for layer 0"):
        SubspaceBlock.within(motion, {1: motion.unit[1]}, 1.0)


def test_the_random_control_is_block_along_other_directions(motion: ProbeMotion) -> None:
    control = RandomDirectionBlock.like(motion, 3.0, seed=5)
    assert isinstance(control, Block)
    assert control.strength == 3.0
    torch.testing.assert_close(control.motion.unit.norm(dim=-1), torch.ones(3))
    assert ((control.motion.unit * motion.unit).sum(-1).abs() < 0.9).all()
    assert torch.equal(control.motion.start, motion.start)
