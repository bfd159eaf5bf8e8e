"""The records of the methods are complete and documented, and every guard does what its class says."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import tiers
from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.prompts import encode_prompts
from revlens.training import (
    ARMS,
    METHODS,
    RESTA,
    Block,
    ConceptAblation,
    ConstrainedLoss,
    FreezeLayers,
    GradientProjection,
    GradientSurgery,
    Guard,
    HiddenStateAnchor,
    KLAnchor,
    Method,
    PreventativeSteering,
    ProbeMotion,
    Push,
    RandomDirectionBlock,
    SafeLoRA,
    SubspaceBlock,
    WiSEFT,
    make_guard,
)
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import Example, collate, encode_examples
from training.fine_tunes import DATA, REFUSALS, located, trained, weights

PAGE = Path(__file__).parents[2] / "docs" / "guarded-finetuning.md"
GUARDED = [name for name, method in METHODS.items() if method.make is not None]
#: Rows of one length, because the bridge returns NaN for padded rows in float64.
PROMPTS = ("A?", "B?", "C?")


@pytest.fixture(scope="module")
def v_rev(history: TrainingHistory) -> ReversionDirection:
    return located(history, ("D?", "E?"))


@pytest.fixture(scope="module")
def v_rev_of_two_layers(history: TrainingHistory) -> ReversionDirection:
    return located(history, ("D?", "E?"), layers=(0, 2))


Make = Callable[..., Guard | None]


@pytest.fixture(scope="module")
def guard_of(history: TrainingHistory, v_rev: ReversionDirection) -> Make:
    """Makes a method's guard at an aligned model, at the middle of its strengths unless another is given."""
    reference = history.reference.load()

    def make(name: str, aligned: TransformerBridge, strength: float | None = None) -> Guard | None:
        method = METHODS[name]
        return make_guard(
            name,
            v_rev,
            aligned,
            PROMPTS,
            strength=method.grid[len(method.grid) // 2] if strength is None else strength,
            seed=3,
            refusals=REFUSALS if "refusals" in method.needs else None,
            reference=reference if "reference" in method.needs else None,
        )

    return make


# The records


def test_the_papers_arms_are_methods_and_the_baseline_has_no_guard() -> None:
    assert set(ARMS) <= METHODS.keys()
    assert [name for name in METHODS if name not in GUARDED] == ["baseline"]
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_grid_goes_from_weak_to_strong_where_there_is_a_strength(method: Method) -> None:
    if method.strength is None:
        assert method.grid == (None,)
    else:
        strengths = [s for s in method.grid if s is not None]
        assert len(strengths) == len(method.grid) > 1
        assert all(s > 0 for s in strengths)
        assert strengths in (sorted(set(strengths)), sorted(set(strengths), reverse=True))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_small_grid_is_at_most_three_of_the_strengths(method: Method) -> None:
    assert len(method.small_grid) <= 3
    assert method.small_grid == tuple(strength for strength in method.grid if strength in method.small_grid)


def test_some_methods_are_for_a_first_look() -> None:
    assert [name for name, method in METHODS.items() if method.small_grid] == [
        "baseline", "block", "random", "adaptive", "projection", "rehearsal", "l2sp", "kl", "anchor"
    ]  # fmt: skip


def test_every_method_has_a_look_of_its_own() -> None:
    looks = [(method.colour, method.marker) for method in METHODS.values()]
    assert len(set(looks)) == len(looks)
    assert all(re.fullmatch(r"#[0-9A-F]{6}", colour) and marker for colour, marker in looks)


def test_the_page_on_guards_has_a_row_of_every_method(guard_of: Make, aligned: TransformerBridge) -> None:
    expected = []
    for name, method in METHODS.items():
        guard = guard_of(name, aligned)
        cells = [
            f"`{name}`",
            "" if guard is None else f"`{type(guard).__name__}`",
            method.summary,
            method.strength or "",
            "yes" if method.along_v_rev else "no",
            ", ".join(f"`{need}`" for need in sorted(method.needs)),
            method.source,
        ]
        expected.append(re.sub(r" +", " ", f"| {' | '.join(cells)} |"))
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows == expected


# What every guard does


@pytest.mark.parametrize(
    ("name", "strength"), [(name, strength) for name in GUARDED for strength in METHODS[name].grid]
)
def test_a_guard_can_be_made_at_every_strength(
    name: str, strength: float | None, guard_of: Make, aligned: TransformerBridge
) -> None:
    assert isinstance(guard_of(name, aligned, strength), Guard)


@pytest.mark.parametrize("name", tiers.guards(GUARDED))
def test_every_guard_changes_the_fine_tune(name: str, guard_of: Make, history: TrainingHistory) -> None:
    strength = {"adaptive": 1e-3}.get(
        name, METHODS[name].grid[-1]
    )  # four updates exceed no budget of the grid
    guard = guard_of(name, history.aligned.load(), strength)
    assert not torch.equal(weights(trained(history, guard)), weights(trained(history, None)))


@pytest.mark.parametrize("name", GUARDED)
def test_a_term_has_the_right_gradient_and_a_guard_without_one_the_right_effect(
    name: str, guard_of: Make, history: TrainingHistory, v_rev: ReversionDirection
) -> None:
    aligned = history.aligned.load()
    guard = guard_of(name, aligned)
    assert guard is not None
    if guard.acts_at("term"):
        assert name not in EFFECTS
        check_gradient(guard, history)
    else:
        EFFECTS[name](guard, history, ProbeMotion.along(v_rev, aligned, PROMPTS))


#: Guards that no method makes, or that a method makes otherwise.
OTHER_TERMS: dict[str, Callable[[ProbeMotion, TransformerBridge], Guard]] = {
    "a subspace": lambda motion, aligned: SubspaceBlock.within(
        motion, {layer: torch.eye(16)[:4] for layer in motion.layers}, 1.5
    ),
    "a farther target": lambda motion, aligned: Push(motion, 1.5, target=3.0),
    "two answer tokens": lambda motion, aligned: KLAnchor.at(aligned, PROMPTS, 10.0, n_tokens=2),
    "some layers": lambda motion, aligned: HiddenStateAnchor.at(aligned, PROMPTS, 1.5, layers=(0, 2)),
}


@pytest.mark.parametrize("name", OTHER_TERMS)
def test_a_term_with_other_settings_has_the_right_gradient(
    name: str, history: TrainingHistory, v_rev: ReversionDirection
) -> None:
    aligned = history.aligned.load()
    check_gradient(OTHER_TERMS[name](ProbeMotion.along(v_rev, aligned, PROMPTS), aligned), history)


def check_gradient(guard: Guard, history: TrainingHistory) -> None:
    """Compare the gradient of a term with finite differences.

    In double precision, halfway from the aligned model to the reference, where all terms are away from zero.
    """
    model, reference = history.aligned.load(), history.reference.load()
    assert len({len(row) for row in encode_prompts(model.tokenizer, PROMPTS)}) == 1
    with torch.no_grad():
        for w, end in zip(model.parameters(), reference.parameters(), strict=True):
            w.lerp_(end, 0.5)
    model.double()

    def term() -> Tensor:
        value = copy.deepcopy(guard).term(model)  # a copy: the state of some changes at every update
        assert value is not None
        return value

    parameters = list(model.parameters())
    assert term().item() > 1e-3
    gradients = torch.autograd.grad(term(), parameters, materialize_grads=True)
    generator = torch.Generator().manual_seed(0)
    # Random lengths, but signs with the gradient: nothing cancels, and the slope far exceeds rounding.
    lengths = [torch.randn(w.shape, generator=generator, dtype=w.dtype).abs() for w in parameters]
    direction = [torch.where(g >= 0, length, -length) for g, length in zip(gradients, lengths, strict=True)]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    starts, eps = [w.detach().clone() for w in parameters], 1e-5

    def term_at(offset: float) -> float:
        with torch.no_grad():
            for w, start, d in zip(parameters, starts, direction, strict=True):
                w.copy_(start + offset * d)
        return term().item()

    assert slope == pytest.approx((term_at(eps) - term_at(-eps)) / (2 * eps), rel=1e-4)


# What guards without a term do to the fine-tune


def holds_the_displacement(guard: Guard, history: TrainingHistory, motion: ProbeMotion) -> None:
    assert isinstance(guard, GradientProjection)
    held, free = (motion.displacement(trained(history, g)).detach().abs().max() for g in (guard, None))
    assert held < 0.1 * free


def leaves_no_conflict_with_the_alignment_gradient(
    guard: Guard, history: TrainingHistory, motion: ProbeMotion
) -> None:
    assert isinstance(guard, GradientSurgery)
    model = history[3].load()
    parameters = list(model.parameters())
    alignment = torch.autograd.grad(guard.alignment.term(model), parameters, materialize_grads=True)
    for parameter, gradient in zip(parameters, alignment, strict=True):
        parameter.grad = -3.0 * gradient
    guard.before_update(model)
    for parameter, gradient in zip(parameters, alignment, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, guard.strength * gradient, rtol=1e-4, atol=1e-7)


def weighs_the_gradient_of_an_answer_token(
    guard: Guard, history: TrainingHistory, motion: ProbeMotion
) -> None:
    assert isinstance(guard, ConstrainedLoss)
    (prompt, answer), *_ = encode_examples(history.aligned.load().tokenizer, DATA)
    batch = collate([Example(prompt, answer[:1])], 0)
    gradients = []
    for weighing in (Guard(), guard):
        model = history[3].load()
        with weighing.around_task(model):
            answer_loss(model, batch).backward()
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]))
    before, after = (-answer_loss(one.load(), batch).item() for one in (history.aligned, history[3]))
    weight = 2 / (1 + math.exp(-guard.strength * 0.5 * (before - after)))
    assert abs(weight - 1) > 1e-3
    torch.testing.assert_close(gradients[1], weight * gradients[0], rtol=1e-3, atol=1e-6)


def takes_the_direction_out_of_the_tasks_gradient(
    guard: Guard, history: TrainingHistory, motion: ProbeMotion, examples: Sequence[Example] = ()
) -> None:
    def slope_along(guard: Guard) -> float:
        model = history.aligned.load()
        with guard.around_task(model):
            answer_loss(model, collate(examples or encode_examples(model.tokenizer, DATA), 0)).backward()
        # This matrix writes to the last stream.
        gradient = model.get_parameter("blocks.2.mlp.out._original_component.weight").grad
        assert gradient is not None
        return float((motion.unit[-1] @ gradient).norm() / gradient.norm())

    assert isinstance(guard, ConceptAblation)
    assert slope_along(guard) < 1e-4
    assert slope_along(Guard()) > 0.01


def takes_the_direction_out_of_the_first_answer_tokens_gradient(
    guard: Guard, history: TrainingHistory, motion: ProbeMotion
) -> None:
    firsts = [
        Example(prompt, answer[:1])
        for prompt, answer in encode_examples(history.aligned.load().tokenizer, DATA)
    ]
    takes_the_direction_out_of_the_tasks_gradient(guard, history, motion, firsts)


def moves_the_tasks_stream_by_its_dose(guard: Guard, history: TrainingHistory, motion: ProbeMotion) -> None:
    assert isinstance(guard, PreventativeSteering)
    model = history.aligned.load()
    for block in model.blocks:  # what adds nothing of its own passes on what is added below it
        for module in (block.attn.o, block.mlp.out):
            for parameter in module.parameters():
                parameter.data.zero_()
    tokens = torch.tensor([[5, 6, 7]])
    plain = [captured(model, tokens, layer) for layer in motion.layers]
    with guard.around_task(model):
        steered = [captured(model, tokens, layer) for layer in motion.layers]
    for i, (before, after) in enumerate(zip(plain, steered, strict=True)):
        expected = guard.dose * motion.gap[i] * motion.unit[i]
        torch.testing.assert_close(after - before, expected.expand_as(after), rtol=1e-4, atol=1e-5)
        assert expected.norm() > 0.1
    assert torch.equal(captured(model, tokens, motion.layers[-1]), plain[-1])


def captured(model: TransformerBridge, tokens: Tensor, layer: int) -> Tensor:
    _, cache = model.run_with_cache(tokens, names_filter=f"blocks.{layer}.hook_out")
    return cache[f"blocks.{layer}.hook_out"].detach()


def projects_changes_that_exceed_the_threshold(
    guard: Guard, history: TrainingHistory, motion: ProbeMotion
) -> None:
    assert isinstance(guard, SafeLoRA)
    guard = replace(guard, threshold=0.5)  # some changes exceed it, and some do not
    models = [
        history.aligned.load(),
        history.reference.load(),
        trained(history, None),
        trained(history, guard),
    ]
    is_projected = []
    for matrices in zip(*(model.blocks.parameters() for model in models), strict=True):
        aligned, reference, free, safe = (matrix.detach() for matrix in matrices)
        if aligned.ndim < 2:
            continue
        v, change, kept = aligned - reference, free - aligned, safe - aligned
        projected = v @ v.T @ change / torch.linalg.svdvals(v)[0] ** 2
        cosine = float(torch.cosine_similarity(projected.flatten(), change.flatten(), dim=0))
        is_projected.append(cosine < guard.threshold)
        torch.testing.assert_close(kept, projected if is_projected[-1] else change, rtol=1e-3, atol=1e-6)
    assert set(is_projected) == {False, True}


def adds_what_alignment_changed(guard: Guard, history: TrainingHistory, motion: ProbeMotion) -> None:
    assert isinstance(guard, RESTA)
    reference, aligned = (weights(one.load()) for one in (history.reference, history.aligned))
    expected = weights(trained(history, None)) + guard.strength * (aligned - reference)
    torch.testing.assert_close(weights(trained(history, guard)), expected)


def interpolates_with_the_aligned_weights(
    guard: Guard, history: TrainingHistory, motion: ProbeMotion
) -> None:
    assert isinstance(guard, WiSEFT)
    expected = torch.lerp(weights(trained(history, None)), weights(history.aligned.load()), guard.share)
    torch.testing.assert_close(weights(trained(history, guard)), expected)


def keeps_the_first_layers(guard: Guard, history: TrainingHistory, motion: ProbeMotion) -> None:
    assert isinstance(guard, FreezeLayers)
    assert guard.layers == (0, 1)
    before, model = history.aligned.load(), trained(history, guard)
    moved = [not weights(b).equal(weights(a)) for b, a in zip(before.blocks, model.blocks, strict=True)]
    assert moved == [False, False, True]


#: For each method whose guard has no term.
EFFECTS: dict[str, Callable[[Guard, TrainingHistory, ProbeMotion], None]] = {
    "projection": holds_the_displacement,
    "surgery": leaves_no_conflict_with_the_alignment_gradient,
    "constrained": weighs_the_gradient_of_an_answer_token,
    "ablation": takes_the_direction_out_of_the_tasks_gradient,
    "clamp": takes_the_direction_out_of_the_first_answer_tokens_gradient,
    "steering": moves_the_tasks_stream_by_its_dose,
    "safe_lora": projects_changes_that_exceed_the_threshold,
    "resta": adds_what_alignment_changed,
    "wise_ft": interpolates_with_the_aligned_weights,
    "freeze": keeps_the_first_layers,
}


# What `make_guard` makes of its arguments


def test_the_baseline_has_no_guard(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    assert make_guard("baseline", v_rev, aligned, ("A?",), strength=1.0, seed=0) is None
    assert make_guard("baseline", v_rev, aligned, ("A?",), seed=0) is None


def arm_of(name: str, v_rev: ReversionDirection, aligned: TransformerBridge, seed: int = 0) -> Block | Push:
    guard = make_guard(name, v_rev, aligned, ("A?", "B?"), strength=3.0, seed=seed)
    assert isinstance(guard, Block | Push)
    return guard


def test_each_other_arm_has_its_own_term_at_the_same_strength(
    v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    guards = {arm: arm_of(arm, v_rev, aligned) for arm in ARMS if arm != "baseline"}
    assert {arm: type(guard) for arm, guard in guards.items()} == {
        "block": Block,
        "push": Push,
        "random": RandomDirectionBlock,
    }
    assert {guard.strength for guard in guards.values()} == {3.0}


def test_arms_differ_in_nothing_but_the_direction(
    v_rev_of_two_layers: ReversionDirection, aligned: TransformerBridge
) -> None:
    v_rev = v_rev_of_two_layers
    block, push, random = (arm_of(arm, v_rev, aligned).motion for arm in ("block", "push", "random"))
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
    unit = arm_of("random", v_rev, aligned).motion.unit
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3))
    assert ((unit * v_rev.unit.float()).sum(-1).abs() < 0.9).all()
    for one, other in itertools.combinations(unit, 2):
        assert abs((one @ other).item()) < 0.9  # drawn for each layer


def test_the_seed_fixes_the_random_directions(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    torch.manual_seed(0)
    first = arm_of("random", v_rev, aligned, seed=5).motion.unit
    torch.manual_seed(1)
    assert torch.equal(arm_of("random", v_rev, aligned, seed=5).motion.unit, first)
    assert not torch.equal(arm_of("random", v_rev, aligned, seed=6).motion.unit, first)


def test_clamp_and_ablation_differ_in_coordinate_and_tokens(
    v_rev_of_two_layers: ReversionDirection, aligned: TransformerBridge
) -> None:
    v_rev = v_rev_of_two_layers
    clamp, ablation = (make_guard(arm, v_rev, aligned, ("A?", "B?"), seed=0) for arm in ("clamp", "ablation"))
    assert isinstance(clamp, ConceptAblation)
    assert isinstance(ablation, ConceptAblation)
    assert (clamp.at_last_prompt, ablation.at_last_prompt) == (True, False)
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


def test_an_unknown_arm_names_those_there_are(v_rev: ReversionDirection, aligned: TransformerBridge) -> None:
    names = "baseline, block, push, random, complement, adaptive, projection"
    with pytest.raises(ConfigError, match=f"Unknown arm 'pull'; expected one of {names}"):
        make_guard("pull", v_rev, aligned, ("A?",), strength=1.0, seed=0)


@pytest.mark.parametrize("strength", [None, 0.0, -1.0, -math.inf, math.nan])
def test_a_strength_must_be_positive(
    v_rev: ReversionDirection, aligned: TransformerBridge, strength: float | None
) -> None:
    message = rf"strength {strength} must be positive \(weight of the term\); use the baseline arm"
    with pytest.raises(ConfigError, match=message):
        make_guard("block", v_rev, aligned, ("A?",), strength=strength, seed=0)


@pytest.mark.parametrize("name", [name for name in GUARDED if METHODS[name].strength is None])
def test_a_strength_of_no_use_is_an_error(
    name: str, v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' has no strength; leave out strength=2.0"):
        make_guard(name, v_rev, aligned, ("A?",), strength=2.0, seed=0)


@pytest.mark.parametrize("name", [name for name in GUARDED if METHODS[name].needs])
def test_what_a_method_needs_must_be_given(
    name: str, v_rev: ReversionDirection, aligned: TransformerBridge
) -> None:
    (need,) = METHODS[name].needs
    with pytest.raises(ConfigError, match=f"The arm '{name}' needs {need}: "):
        make_guard(name, v_rev, aligned, ("A?",), strength=0.2, seed=0)
