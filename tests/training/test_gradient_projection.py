from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import GuardError
from revlens.history import TrainingHistory
from revlens.training import FinetuneConfig, GradientProjection, ProbeMotion, finetune
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import batches
from revlens.training.guard import Guard, trained_parameters

#: Of one length, because the bridge returns NaN for padded rows in float64.
PROMPTS = ("A?", "B?", "C?")
DATA = Dataset.from_dict({"prompt": ["D?"] * 8, "answer": ["Sure, I will tell you at once."] * 8})


@pytest.fixture(scope="module")
def v_rev(history: TrainingHistory) -> ReversionDirection:
    reference, aligned = (read_prompts(c.load(), PROMPTS) for c in (history.reference, history.aligned))
    return ReversionDirection.fit(reference, aligned, split="guard")


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, v_rev: ReversionDirection) -> ProbeMotion:
    return ProbeMotion.along(v_rev, history.aligned.load(), PROMPTS)


def one_update(model: TransformerBridge, guard: Guard, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    answer_loss(model, next(batches(model.tokenizer, DATA, batch_size=8, seed=0))).backward()
    guard.before_update(model)
    optimizer.step()
    guard.after_update(model)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adamw": lambda weights, eps: torch.optim.AdamW(weights, lr=eps, weight_decay=0.1),
    "sgd": lambda weights, eps: torch.optim.SGD(weights, lr=30 * eps, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_displacement_after_an_update_is_of_second_order(
    history: TrainingHistory, motion: ProbeMotion, kind: str
) -> None:
    def moved(eps: float, guard: Guard) -> tuple[Tensor, float]:
        model = history.aligned.load()
        model.double()
        weights = list(model.parameters())
        before = [w.detach().clone() for w in weights]
        at_start = motion.displacement(
            model
        ).detach()  # zero but for the rounding of the start, which is kept in float32
        one_update(model, guard, OPTIMIZERS[kind](weights, eps))
        length = (
            sum(float((w.detach() - b).square().sum()) for w, b in zip(weights, before, strict=True)) ** 0.5
        )
        return motion.displacement(model).detach() - (at_start if type(guard) is Guard else 0.0), length

    sizes = (1e-3, 5e-4, 2.5e-4)
    free, held = (
        [moved(eps, make()) for eps in sizes] for make in (Guard, lambda: GradientProjection(motion))
    )
    for (large, _), (small, _) in itertools.pairwise(
        free
    ):  # first order: half of the update, half of the motion
        torch.testing.assert_close(small / large, torch.full_like(small, 0.5), rtol=0.2, atol=0)
    for (large, _), (small, _) in itertools.pairwise(held):  # second order: half of the update, a quarter
        torch.testing.assert_close(small / large, torch.full_like(small, 0.25), rtol=0.3, atol=0)
    assert (held[0][0].abs() < 0.1 * free[0][0].abs()).all()
    assert all(kept > 0.5 * whole for (_, whole), (_, kept) in zip(free, held, strict=True)), (
        "most of the update stays"
    )


def test_the_update_is_the_nearest_that_holds_the_constraints(
    history: TrainingHistory, motion: ProbeMotion
) -> None:
    model, free = history.aligned.load(), history.aligned.load()
    guard = GradientProjection(motion)
    start = torch.cat([w.detach().flatten() for w in model.parameters()]).double()
    gradients = [
        torch.autograd.grad(p, list(model.parameters()), retain_graph=True, materialize_grads=True)
        for p in motion.displacement(model)
    ]
    jacobian = torch.stack([torch.cat([g.flatten() for g in of_layer]) for of_layer in gradients]).double()
    for one, how in ((model, guard), (free, Guard())):
        one_update(one, how, torch.optim.AdamW(one.parameters(), lr=1e-3))
    held, whole = (
        torch.cat([w.detach().flatten() for w in one.parameters()]).double() - start for one in (model, free)
    )
    before = motion.displacement(history.aligned.load()).detach().double()
    correction = torch.linalg.lstsq(jacobian, -(jacobian @ whole + before)[:, None], driver="gelsd").solution[
        :, 0
    ]
    torch.testing.assert_close(held, whole + correction, rtol=1e-3, atol=1e-6)


def test_through_a_whole_fine_tune_the_displacement_stays_near_zero(
    history: TrainingHistory, motion: ProbeMotion
) -> None:
    def displaced(guard: Guard | None) -> Tensor:
        model = history.aligned.load()
        finetune(model, DATA, FinetuneConfig(steps=10, learning_rate=1e-3, batch_size=8), seed=0, guard=guard)
        return motion.displacement(model).detach()

    assert displaced(GradientProjection(motion)).abs().max() < 0.02 * displaced(None).abs().max()


def test_what_has_moved_is_taken_back(history: TrainingHistory, motion: ProbeMotion) -> None:
    model = history.aligned.load()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        one_update(model, Guard(), optimizer)
    before = motion.displacement(model).abs().max()
    one_update(model, GradientProjection(motion), optimizer)
    assert motion.displacement(model).abs().max() < 0.2 * before


def test_layers_that_training_cannot_move_do_not_disturb_the_others(
    history: TrainingHistory, motion: ProbeMotion
) -> None:
    model = history.aligned.load()
    model.requires_grad_(False)
    for parameter in model.blocks[2].parameters():
        parameter.requires_grad_(True)
    one_update(
        model, GradientProjection(motion), torch.optim.AdamW(trained_parameters(model).values(), lr=1e-3)
    )
    assert motion.displacement(model).abs().max() < 1e-3


def test_weights_that_do_not_move_the_probes_are_an_error(
    history: TrainingHistory, v_rev: ReversionDirection
) -> None:
    model = history.aligned.load()
    motion = ProbeMotion.along(v_rev, model, PROMPTS, layers=(0,))
    model.requires_grad_(False)
    for parameter in model.blocks[2].parameters():
        parameter.requires_grad_(True)
    with pytest.raises(GuardError, match="the model frozen"):
        GradientProjection(motion).before_update(model)
