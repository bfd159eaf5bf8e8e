"""Gradient surgery against its formula, with a conflict and without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.history import TrainingHistory
from revlens.training import FinetuneConfig, GradientSurgery, KLAnchor, finetune
from training.fine_tunes import DATA, trained, weights

PROMPTS = ("A?", "B?", "Why?")


def moved(history: TrainingHistory) -> TransformerBridge:
    """Away from the aligned model, where the divergence has a gradient."""
    return history[3].load()


def guard_at(history: TrainingHistory, strength: float) -> GradientSurgery:
    return GradientSurgery(KLAnchor.at(history.aligned.load(), PROMPTS, 1.0, n_tokens=2), strength)


def alignment_gradient(guard: GradientSurgery, model: TransformerBridge) -> Tensor:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(guard.alignment.term(model), parameters, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def gradient_of(model: TransformerBridge) -> Tensor:
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]).double()


@pytest.mark.parametrize("strength", [0.5, 10.0])
@pytest.mark.parametrize("conflicts", [True, False])
def test_only_what_conflicts_is_taken_out(history: TrainingHistory, strength: float, conflicts: bool) -> None:
    model, guard = moved(history), guard_at(history, strength)
    a = alignment_gradient(guard, model)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(a.shape, generator=generator, dtype=a.dtype)
    task = a.norm() * noise / noise.norm() + (-2.0 if conflicts else 2.0) * a
    chunks = task.split([w.numel() for w in model.parameters()])
    for parameter, chunk in zip(model.parameters(), chunks, strict=True):
        parameter.grad = chunk.view_as(parameter).float()
    guard.before_update(model)
    task_part = gradient_of(model) - strength * a
    expected = task - (task @ a) / (a @ a) * a if conflicts else task
    torch.testing.assert_close(task_part, expected, rtol=1e-4, atol=1e-6 * float(task.norm()))
    cosine = float(torch.cosine_similarity(task_part, a, dim=0))
    assert (abs(cosine) < 1e-5) if conflicts else (cosine > 0.5)


def test_a_parameter_without_a_task_gradient_gets_the_alignment_gradient(history: TrainingHistory) -> None:
    model, guard = moved(history), guard_at(history, 3.0)
    a = alignment_gradient(guard, model)
    guard.before_update(model)
    torch.testing.assert_close(gradient_of(model), 3.0 * a, rtol=1e-5, atol=1e-9)


def test_at_the_aligned_model_it_does_nothing(history: TrainingHistory) -> None:
    config = FinetuneConfig(steps=1, learning_rate=1e-3, batch_size=4)
    plain, guarded = history.aligned.load(), history.aligned.load()
    finetune(plain, DATA, config, seed=0)
    finetune(guarded, DATA, config, seed=0, guard=guard_at(history, 1.0))
    assert torch.equal(weights(plain), weights(guarded))


def test_the_divergence_is_held_back(history: TrainingHistory) -> None:
    guard = guard_at(history, 10.0)
    free, held = (guard.alignment.divergence(trained(history, g)) for g in (None, guard))
    assert held < 0.7 * free
