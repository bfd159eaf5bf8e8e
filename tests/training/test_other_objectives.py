"""Objectives that look at weights, answers, whole activations or the forward pass; what is special to each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, GuardError, SiteError
from revlens.history import TrainingHistory
from revlens.hooks import ablate, record_projections
from revlens.prompts import Probes, encode_prompts
from revlens.training import (
    L2SP,
    AdaptiveBlock,
    Block,
    ComplementBlock,
    ConceptAblation,
    Every,
    FinetuneConfig,
    FreezeLayers,
    Guard,
    HiddenStateAnchor,
    KLAnchor,
    ProbeMotion,
    RandomDirectionBlock,
    Rehearsal,
    SubspaceBlock,
    finetune,
)
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import collate, encode_examples

DATA = Dataset.from_dict(
    {
        "prompt": ["A?", "B?", "Now what?"] * 3,
        "answer": ["Sure, at once.", "Sure, in a minute.", "Of course."] * 3,
    }
)
REFUSALS = Dataset.from_dict({"prompt": ["D?", "Why?"], "answer": ["I can't help with that.", "Sorry, no."]})
CONFIG = FinetuneConfig(steps=4, learning_rate=3e-3, batch_size=4)


@pytest.fixture(scope="module")
def v_rev(history: TrainingHistory, probes: Probes) -> ReversionDirection:
    reference, aligned = (
        read_prompts(c.load(), probes["direction"]) for c in (history.reference, history.aligned)
    )
    return ReversionDirection.fit(reference, aligned, split="direction")


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, v_rev: ReversionDirection, probes: Probes) -> ProbeMotion:
    return ProbeMotion.along(v_rev, history.aligned.load(), probes["guard"])


def trained(
    history: TrainingHistory, guard: Guard | None, config: FinetuneConfig = CONFIG
) -> TransformerBridge:
    model = history.aligned.load()
    finetune(model, DATA, config, seed=0, guard=guard)
    return model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([w.detach().flatten() for w in model.parameters()])


def test_a_guard_without_any_moment_of_its_own_is_the_baseline(history: TrainingHistory) -> None:
    assert torch.equal(weights(trained(history, Guard())), weights(trained(history, None)))


def test_the_loop_calls_each_moment_in_order(history: TrainingHistory) -> None:
    told: list[str] = []

    class Watching(Guard):
        def begin(self, model: nn.Module) -> None:
            told.append("begin")

        def before_update(self, model: nn.Module) -> None:
            assert any(p.grad is not None and p.grad.any() for p in model.parameters())
            told.append("before")

        def after_update(self, model: nn.Module) -> None:
            told.append("after")

        def end(self, model: nn.Module) -> None:
            assert not model.training
            told.append("end")

    model = history.aligned.load()
    finetune(
        model,
        DATA,
        replace(CONFIG, steps=2),
        seed=0,
        guard=Watching(),
        on_step=lambda step, loss: told.append(f"step {step}"),
    )
    assert told == ["begin", "before", "after", "step 1", "before", "after", "end", "step 2"]


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


def test_at_every_kth_update_a_guard_acts_and_else_not(history: TrainingHistory) -> None:
    class Counting(Guard):
        calls = 0

        def term(self, model: nn.Module) -> Tensor:
            self.calls += 1
            return 0.0 * next(model.parameters()).sum()

        def before_update(self, model: nn.Module) -> None:
            self.calls += 10

        def after_update(self, model: nn.Module) -> None:
            self.calls += 100

    for k, n in ((1, 4), (2, 2), (3, 2), (4, 1)):
        guard = Counting()
        assert torch.equal(weights(trained(history, Every(k, guard))), weights(trained(history, None)))
        assert guard.calls == 111 * n
    with pytest.raises(ConfigError, match="k=0 must be at least 1"):
        Every(0, Guard())


def test_l2sp_is_half_the_squared_distance_and_holds_weights_back(history: TrainingHistory) -> None:
    model = history.aligned.load()
    start = weights(model)
    guard = L2SP.at(model, 3.0)
    assert guard.term(model).item() == 0.0
    tuned = history[3].load()
    assert guard.term(tuned).item() == pytest.approx(
        1.5 * (weights(tuned) - start).square().sum().item(), rel=1e-4
    )
    held, free = ((weights(trained(history, g)) - start).norm() for g in (L2SP.at(model, 1e3), None))
    assert held < 0.8 * free


def test_l2sp_of_other_weights_is_an_error(aligned: TransformerBridge) -> None:
    guard = L2SP.at(aligned, 1.0)
    aligned.unembed.requires_grad_(False)
    with pytest.raises(
        GuardError, match="trains other parameters than L2SP was anchored at, such as model.embed_tokens"
    ):
        guard.term(aligned)
    aligned.requires_grad_(False)
    with pytest.raises(GuardError, match="L2SP would do nothing"):
        L2SP.at(aligned, 1.0)


def test_kl_is_that_of_the_first_answer_token(history: TrainingHistory, probes: Probes) -> None:
    aligned, tuned = history.aligned.load(), history.reference.load()
    guard = KLAnchor.at(aligned, probes["guard"], 2.0)
    assert guard.term(aligned).item() == pytest.approx(0.0, abs=1e-5)
    divergences = []
    for row in encode_prompts(aligned.tokenizer, probes["guard"]):
        p, q = (model(torch.tensor([row]))[0, -1].softmax(-1).detach() for model in (aligned, tuned))
        divergences.append((p * (p / q).log()).sum())
    assert guard.term(tuned).item() == pytest.approx(2.0 * torch.stack(divergences).mean().item(), rel=1e-3)


def test_kl_of_more_tokens_follows_the_aligned_models_own_answer(
    history: TrainingHistory, probes: Probes
) -> None:
    aligned = history.aligned.load()
    prompts = probes["guard"][:2]
    guard = KLAnchor.at(aligned, prompts, 1.0, n_tokens=3)
    rows = [tokens[mask == 1].tolist() for tokens, mask in zip(*guard.batch, strict=True)]
    for row, prompt in zip(rows, encode_prompts(aligned.tokenizer, prompts), strict=True):
        assert row[:-2] == prompt
        for i in (-2, -1):
            assert row[i] == int(aligned(torch.tensor([row[:i]]))[0, -1].argmax())
    assert guard.log_p.shape[1] == 3
    assert guard.term(aligned).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ConfigError, match="n_tokens=0 must be at least 1"):
        KLAnchor.at(aligned, prompts, 1.0, n_tokens=0)


def test_the_anchor_is_the_mean_squared_distance_of_each_probe(
    history: TrainingHistory, probes: Probes
) -> None:
    aligned, tuned = history.aligned.load(), history[3].load()
    guard = HiddenStateAnchor.at(aligned, probes["guard"], 3.0, layers=(1, 2))
    assert guard.term(aligned).item() == 0.0
    moved = read_prompts(tuned, probes["guard"], Sites(layers=(1, 2))) - read_prompts(
        aligned, probes["guard"], Sites(layers=(1, 2))
    )
    assert guard.term(tuned).item() == pytest.approx(3.0 * moved.square().sum(-1).mean().item(), rel=1e-3)


def test_anchors_hold_what_they_anchor(history: TrainingHistory, probes: Probes) -> None:
    aligned = history.aligned.load()
    for make in (KLAnchor.at, HiddenStateAnchor.at):
        measure, guard = make(aligned, probes["guard"], 1.0), make(aligned, probes["guard"], 100.0)
        held, free = (measure.term(trained(history, g)).item() for g in (guard, None))
        assert held < 0.7 * free


def test_the_loss_of_rehearsal_is_up_to_a_factor_that_of_the_mixture(aligned: TransformerBridge) -> None:
    task, share = torch.tensor(2.0), 0.2
    guard = Rehearsal(REFUSALS, share, seed=0)
    refusals = answer_loss(
        aligned, collate(encode_examples(aligned.tokenizer, REFUSALS), aligned.tokenizer.pad_token_id)
    )
    torch.testing.assert_close(
        (1 - share) * (task + guard.term(aligned)), (1 - share) * task + share * refusals
    )


def test_rehearsal_learns_to_refuse_and_starts_over_at_every_training(history: TrainingHistory) -> None:
    guard = Rehearsal(REFUSALS, 0.5, seed=0, rows=1)
    first, again = (weights(trained(history, guard)) for _ in range(2))
    assert torch.equal(first, again)
    batch = collate(encode_examples(history.aligned.load().tokenizer, REFUSALS), 0)
    assert answer_loss(trained(history, guard), batch) < 0.9 * answer_loss(trained(history, None), batch)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_lies_between_zero_and_one(share: float) -> None:
    with pytest.raises(ConfigError, match=f"share={share} of refusals must lie strictly between 0 and 1"):
        Rehearsal(REFUSALS, share, seed=0)
    with pytest.raises(GuardError, match="No refusals to rehearse"):
        Rehearsal(REFUSALS.select([]), 0.5, seed=0)


def test_frozen_layers_stay_and_thaw(history: TrainingHistory) -> None:
    before, model = history.aligned.load(), trained(history, FreezeLayers((0, 2)))
    moved = [
        not torch.equal(weights(old), weights(new))
        for old, new in zip(before.blocks, model.blocks, strict=True)
    ]
    assert moved == [False, True, False]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be_frozen_is_an_error(aligned: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="freezes nothing"):
        FreezeLayers(())
    with pytest.raises(GuardError, match=r"Cannot freeze layers \(3,\): the model has layers 0 to 2"):
        FreezeLayers((3,)).begin(aligned)
    aligned.requires_grad_(False)
    with pytest.raises(GuardError, match="freezing them would do nothing"):
        FreezeLayers((0,)).begin(aligned)


def test_ablation_holds_the_coordinate_during_the_task_alone(
    history: TrainingHistory, motion: ProbeMotion, v_rev: ReversionDirection
) -> None:
    model = history.aligned.load()
    tokens = torch.tensor([[5, 6, 7, 8]])
    plain = model(tokens)
    for guard in (ConceptAblation.ablating(motion), ConceptAblation.clamping(motion)):
        with guard.around_task(model), record_projections(model, v_rev) as projections:
            edited = model(tokens)
        for layer in motion.layers:
            torch.testing.assert_close(
                projections[layer],
                torch.full_like(projections[layer], guard.coordinates[layer]),
                rtol=1e-4,
                atol=1e-5,
            )
        assert not torch.equal(edited, plain)
        assert torch.equal(model(tokens), plain)
    with ConceptAblation.ablating(motion).around_task(model):
        ablated = model(tokens)
    with ablate(model, v_rev):
        torch.testing.assert_close(ablated, model(tokens))


def test_under_ablation_the_task_has_no_gradient_along_the_direction(
    history: TrainingHistory, motion: ProbeMotion
) -> None:
    def slope_along(guard: Guard) -> float:
        model = history.aligned.load()
        with guard.around_task(model):
            answer_loss(model, collate(encode_examples(model.tokenizer, DATA), 0)).backward()
        gradient = model.get_parameter(
            "blocks.2.mlp.out._original_component.weight"
        ).grad  # writes to the last stream
        assert gradient is not None
        return float((motion.unit[-1] @ gradient).norm() / gradient.norm())

    assert slope_along(ConceptAblation.ablating(motion)) < 1e-4
    assert slope_along(Guard()) > 0.01


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
