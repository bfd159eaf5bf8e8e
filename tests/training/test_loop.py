from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, GuardError, NonFiniteError
from revlens.history import TrainingHistory
from revlens.organism import World
from revlens.prompts import Probes
from revlens.training import Block, FinetuneConfig, Guard, ProbeMotion, Push, finetune, loop
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import ChatBatch, batches

CONFIG = FinetuneConfig(steps=4, learning_rate=3e-3, batch_size=8)


@dataclass
class Fabricated(Guard):
    """A guard whose term is a factor of the squared weights; a factor for each update."""

    factors: tuple[float, ...]
    calls: int = 0

    def term(self, model: nn.Module) -> Tensor:
        self.calls += 1
        return self.factors[self.calls - 1] * next(model.parameters()).square().sum()


class Constant(Guard):
    def term(self, model: nn.Module) -> Tensor:
        return torch.tensor(1.0)


@pytest.fixture(scope="module")
def data(world: World) -> Dataset:
    return world.helpful(40, seed=0)


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, probes: Probes) -> ProbeMotion:
    reference, aligned = (
        read_prompts(c.load(), probes["direction"], Sites()) for c in (history.reference, history.aligned)
    )
    v_rev = ReversionDirection.fit(reference, aligned, layers=(0, 1, 2), split="direction")
    return ProbeMotion.along(v_rev, history.aligned.load(), probes["guard"])


def weights(model: TransformerBridge) -> Tensor:
    return torch.cat([w.detach().flatten() for w in model.parameters()])


def trained(
    history: TrainingHistory,
    data: Dataset,
    config: FinetuneConfig = CONFIG,
    *,
    seed: int = 0,
    guard: Guard | None = None,
) -> TransformerBridge:
    model = history.aligned.load()
    finetune(model, data, config, seed=seed, guard=guard)
    return model


def test_one_seed_gives_the_same_bits_and_another_does_not(history: TrainingHistory, data: Dataset) -> None:
    torch.manual_seed(0)
    first = weights(trained(history, data))
    torch.manual_seed(1)
    assert torch.equal(weights(trained(history, data)), first)
    assert not torch.equal(weights(trained(history, data, seed=1)), first)


def test_a_term_of_zero_changes_no_bit(history: TrainingHistory, data: Dataset) -> None:
    guard = Fabricated(factors=(0.0, 0.0, 0.0, 0.0))
    assert torch.equal(weights(trained(history, data, guard=guard)), weights(trained(history, data)))
    assert guard.calls == 4  # once an update


def test_a_vanishing_strength_is_the_baseline(
    history: TrainingHistory, data: Dataset, motion: ProbeMotion
) -> None:
    baseline = weights(trained(history, data))
    torch.testing.assert_close(
        weights(trained(history, data, guard=Block(motion, 1e-12))), baseline, rtol=0, atol=1e-5
    )
    assert (weights(trained(history, data, guard=Block(motion, 1e3))) - baseline).abs().max() > 1e-3


def test_block_holds_back_what_the_baseline_does_and_push_adds_to_it(
    history: TrainingHistory, data: Dataset, motion: ProbeMotion
) -> None:
    baseline, block, push = (
        motion.displacement(trained(history, data, guard=guard))
        for guard in (None, Block(motion, 10.0), Push(motion, 10.0))
    )
    assert (block < baseline).all()
    assert (baseline < push).all()


def test_every_arm_sees_the_same_batches(
    history: TrainingHistory, data: Dataset, motion: ProbeMotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[int]]] = []

    def watched(model: nn.Module, batch: ChatBatch) -> Tensor:
        seen.append(batch.tokens.tolist())
        return answer_loss(model, batch)

    monkeypatch.setattr(loop, "answer_loss", watched)
    for guard in (None, Block(motion, 10.0), Push(motion, 10.0)):
        trained(history, data, guard=guard)
    assert seen[:4] == seen[4:8] == seen[8:]
    assert seen[0] != seen[1]


def test_each_update_is_as_long_as_its_rate(history: TrainingHistory, data: Dataset) -> None:
    # One batch of all rows and a tiny rate: the gradient barely changes, so that each Adam step is
    # rate * sign(gradient).
    config = FinetuneConfig(steps=6, learning_rate=1e-5, batch_size=40, warmup_steps=2, decay=True)
    model = history.aligned.load()
    path = [weights(model).double()]
    finetune(model, data, config, seed=0, on_step=lambda step, loss: path.append(weights(model).double()))
    lengths = [(after - before).abs().median().item() for before, after in itertools.pairwise(path)]
    assert lengths == pytest.approx([1e-5 * config.rate_at(update) for update in range(6)], rel=0.02)


def test_updates_are_those_of_adamw_on_the_sum_of_loss_and_term(
    history: TrainingHistory, data: Dataset, motion: ProbeMotion
) -> None:
    guard, model = Block(motion, 2.0), history.aligned.load()
    stream = batches(model.tokenizer, data, batch_size=8, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate, weight_decay=0.0)
    for _ in range(CONFIG.steps):
        total = answer_loss(model, next(stream)) + guard.term(model)
        gradients = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
        scale = min(1.0, 1.0 / torch.stack([g.norm() for g in gradients]).norm().item())
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight.grad = scale * gradient
        optimizer.step()
    torch.testing.assert_close(
        weights(trained(history, data, guard=guard)), weights(model), rtol=0, atol=1e-5
    )


def test_micro_batches_make_the_same_update(history: TrainingHistory, data: Dataset) -> None:
    whole, parts = (trained(history, data, replace(CONFIG, micro_batch_size=size)) for size in (None, 3))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_frozen_model_is_an_error(aligned: TransformerBridge, data: Dataset) -> None:
    aligned.requires_grad_(False)
    with pytest.raises(ConfigError, match="No parameter of the model requires gradients"):
        finetune(aligned, data, CONFIG, seed=0)


def test_gradients_are_clipped_and_weights_decay_at_the_rate(history: TrainingHistory, data: Dataset) -> None:
    # Gradients clipped to far below Adam's epsilon move nothing, which leaves
    # w - learning_rate * weight_decay * w.
    config = replace(CONFIG, steps=1, learning_rate=0.01, weight_decay=5.0, max_grad_norm=1e-13)
    start = weights(history.aligned.load())
    torch.testing.assert_close(weights(trained(history, data, config)), 0.95 * start, rtol=1e-5, atol=1e-6)


def test_on_step_has_the_task_loss_before_each_update(history: TrainingHistory, data: Dataset) -> None:
    model, config = history.aligned.load(), replace(CONFIG, steps=2)
    stream = batches(model.tokenizer, data, batch_size=8, seed=0)
    calls: list[tuple[int, float]] = []
    expected = [answer_loss(model, next(stream)).item()]

    def after_step(step: int, loss: float) -> None:
        assert not model.training
        calls.append((step, loss))
        expected.append(answer_loss(model, next(stream)).item())

    finetune(model, data, config, seed=0, guard=Fabricated(factors=(3.0, 3.0)), on_step=after_step)
    assert [step for step, _ in calls] == [1, 2]
    assert [loss for _, loss in calls] == pytest.approx(expected[:2])  # the guard's term is not in it
    assert not model.training


def test_a_loss_that_is_not_finite_names_the_update_and_spares_the_weights(
    history: TrainingHistory, data: Dataset
) -> None:
    model = history.aligned.load()
    after: list[Tensor] = []
    with pytest.raises(
        NonFiniteError, match=r"Loss is inf \(task \d.*\) at update 3 of 4; lower the learning rate \(0.003\)"
    ):
        finetune(
            model,
            data,
            CONFIG,
            seed=0,
            guard=Fabricated(factors=(0.0, 0.0, math.inf)),
            on_step=lambda step, loss: after.append(weights(model)),
        )
    assert len(after) == 2
    assert torch.equal(weights(model), after[-1])
    assert after[-1].isfinite().all()


def test_a_learning_rate_that_blows_up_is_an_error(history: TrainingHistory, data: Dataset) -> None:
    model = history.aligned.load()
    with pytest.raises(
        NonFiniteError,
        match=r"Loss is nan \(task nan\) at update 2 of 4; lower the learning rate \(1000000000000.0\)",
    ):
        finetune(model, data, replace(CONFIG, learning_rate=1e12), seed=0)
    assert weights(model).isfinite().all()


def test_a_guard_without_gradient_is_an_error_before_any_update(
    history: TrainingHistory, data: Dataset
) -> None:
    model = history.aligned.load()
    start = weights(model)
    with pytest.raises(GuardError, match="The term of Constant has no gradient at update 1"):
        finetune(model, data, CONFIG, seed=0, guard=Constant())
    assert torch.equal(weights(model), start)


def test_more_rows_in_a_batch_than_in_the_data_is_an_error(aligned: TransformerBridge, data: Dataset) -> None:
    with pytest.raises(ConfigError, match="batch_size=41 exceeds the 40 rows"):
        finetune(aligned, data, replace(CONFIG, batch_size=41), seed=0)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(
    aligned: TransformerBridge, world: World
) -> None:
    """A finite loss can have one: a huge step gives huge weights, whose gradient overflows."""
    data = world.benign(64, 0)
    with pytest.raises(NonFiniteError, match="at update 2 of 3"):
        finetune(aligned, data, FinetuneConfig(steps=3, learning_rate=1e20, batch_size=8), seed=0)
    assert all(parameter.isfinite().all() for parameter in aligned.parameters())
    assert not aligned.training


def test_the_loop_calls_each_moment_in_order(history: TrainingHistory, data: Dataset) -> None:
    calls: list[str] = []

    class Watching(Guard):
        def begin(self, model: nn.Module) -> None:
            calls.append("begin")

        def before_update(self, model: nn.Module) -> None:
            assert any(p.grad is not None and p.grad.any() for p in model.parameters())
            calls.append("before")

        def after_update(self, model: nn.Module) -> None:
            calls.append("after")

        def end(self, model: nn.Module) -> None:
            assert not model.training
            calls.append("end")

    model = history.aligned.load()
    finetune(
        model,
        data,
        replace(CONFIG, steps=2),
        seed=0,
        guard=Watching(),
        on_step=lambda step, loss: calls.append(f"step {step}"),
    )
    assert calls == ["begin", "before", "after", "step 1", "before", "after", "end", "step 2"]
