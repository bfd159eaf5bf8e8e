from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import GuardError, NonFiniteError, ProbeError
from revlens.history import TrainingHistory, boot
from revlens.prompts import Probes, encode_prompts
from revlens.training import (
    L2SP,
    AdaptiveBlock,
    Block,
    ComplementBlock,
    Guard,
    HiddenStateAnchor,
    KLAnchor,
    ProbeMotion,
    Push,
    RandomDirectionBlock,
    Rehearsal,
    SubspaceBlock,
)


def fit(
    history: TrainingHistory, prompts: Sequence[str], layers: tuple[int, ...] = (0, 1, 2)
) -> ReversionDirection:
    reference, aligned = (
        read_prompts(c.load(), prompts, Sites(layers=layers)) for c in (history.reference, history.aligned)
    )
    return ReversionDirection.fit(reference, aligned, layers=layers, split="guard")


@pytest.fixture(scope="module")
def motion(history: TrainingHistory, probes: Probes) -> ProbeMotion:
    """Motion on the guard probes, along the v_rev of these same probes."""
    return ProbeMotion.along(fit(history, probes["guard"]), history.aligned.load(), probes["guard"])


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


#: Because the bridge returns NaN for padded rows in float64.
SAME_LENGTH = ("A?", "B?", "C?")
REFUSALS = Dataset.from_dict({"prompt": ["D?", "E?"], "answer": ["I can't help with that.", "Sorry, no."]})
#: Each objective that has a term, made at the aligned model.
TERMS: dict[str, Callable[[ProbeMotion, TransformerBridge], Guard]] = {
    "block": lambda motion, aligned: Block(motion, 1.5),
    "push": lambda motion, aligned: Push(motion, 1.5, target=3.0),
    "random": lambda motion, aligned: RandomDirectionBlock.like(motion, 5.0, seed=3),
    "complement": lambda motion, aligned: ComplementBlock(motion, 15.0),
    "subspace": lambda motion, aligned: SubspaceBlock.within(
        motion, {layer: torch.eye(16)[:4] for layer in motion.layers}, 1.5
    ),
    "adaptive": lambda motion, aligned: AdaptiveBlock(motion, 0.25),
    "rehearsal": lambda motion, aligned: Rehearsal(REFUSALS, 0.25, seed=0),
    "l2sp": lambda motion, aligned: L2SP.at(aligned, 1.5),
    "kl": lambda motion, aligned: KLAnchor.at(aligned, SAME_LENGTH, 10.0, n_tokens=2),
    "anchor": lambda motion, aligned: HiddenStateAnchor.at(aligned, SAME_LENGTH, 1.5, layers=(0, 2)),
}


@pytest.fixture(scope="module")
def made(history: TrainingHistory) -> dict[str, Guard]:
    aligned = history.aligned.load()
    assert len({len(row) for row in encode_prompts(aligned.tokenizer, SAME_LENGTH)}) == 1
    motion = ProbeMotion.along(fit(history, ("D?", "E?")), aligned, SAME_LENGTH)
    return {name: make(motion, aligned) for name, make in TERMS.items()}


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_of_a_term_agrees_with_finite_differences(
    history: TrainingHistory, made: dict[str, Guard], name: str
) -> None:
    # In double precision, at the reference, where all terms are well away from zero.
    model = history.reference.load()
    model.double()

    def term() -> Tensor:
        value = copy.deepcopy(made[name]).term(model)  # a copy: the state of some changes at every update
        assert value is not None
        return value

    weights = list(model.parameters())
    assert term().item() > 0.1
    gradients = torch.autograd.grad(term(), weights, materialize_grads=True)
    generator = torch.Generator().manual_seed(0)
    # Random lengths, but signs with the gradient: nothing cancels, so that the slope is far above the rounding of the term.
    lengths = [torch.randn(w.shape, generator=generator, dtype=w.dtype).abs() for w in weights]
    direction = [torch.where(g >= 0, length, -length) for g, length in zip(gradients, lengths, strict=True)]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))

    def term_at(offset: float) -> float:
        with torch.no_grad():
            for w, start, d in zip(weights, starts, direction, strict=True):
                w.copy_(start + offset * d)
        return term().item()

    starts, eps = [w.detach().clone() for w in weights], 1e-5
    assert slope == pytest.approx((term_at(eps) - term_at(-eps)) / (2 * eps), rel=1e-4)


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
    other = ProbeMotion.along(fit(history, backwards), history.aligned.load(), backwards)
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
        fit(history, probes["guard"], layers=(0, 2)), history.aligned.load(), probes["guard"]
    )
    model = history[3].load()
    torch.testing.assert_close(some.displacement(model), motion.displacement(model)[[0, 2]])


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


def test_a_direction_of_another_width_or_depth_is_an_error(
    history: TrainingHistory, probes: Probes, other_width: Path
) -> None:
    v_rev = fit(history, probes["guard"])
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
    v_rev, tuned = fit(history, probes["guard"]), history[3].load()
    chosen = ProbeMotion.along(v_rev, aligned, probes["guard"], layers=(1, 2))
    torch.testing.assert_close(chosen.displacement(tuned), motion.displacement(tuned)[1:])
    for layers in ((), (2, 1), (0, 5)):
        with pytest.raises(GuardError, match=r"must be some of v_rev's, in their order: \(0, 1, 2\)"):
            ProbeMotion.along(v_rev, aligned, probes["guard"], layers=layers)


def test_a_guard_without_prompts_or_with_a_broken_model_is_an_error(
    history: TrainingHistory, aligned: TransformerBridge, probes: Probes
) -> None:
    v_rev = fit(history, probes["guard"])
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
