"""Laws of the editing contexts, on every architecture family."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens import hooks
from revlens.errors import HookNameError, NonFiniteError, SiteError
from revlens.hooks.tokens import TOKENS

PROMPT = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
LAST_PROMPT = PROMPT.shape[1] - 1
COMPONENTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def direction(seed: int = 0, k: int = 1) -> Tensor:
    rows = torch.randn(k, 16, generator=torch.Generator().manual_seed(seed))
    return rows[0] if k == 1 else rows


def components(model: TransformerBridge) -> list[str]:
    return [c for c in COMPONENTS if hooks.point_name(0, c) in model.hook_dict]


def activations(model: TransformerBridge, component: str, tokens: Tensor = PROMPT) -> dict[int, Tensor]:
    names = [hooks.point_name(layer, component) for layer in range(3)]
    with torch.no_grad(), hooks.record(model, names) as kept:
        model(tokens)
    return dict(enumerate(kept.values()))


def generate(model: TransformerBridge, *, cached: bool = True, n: int = 4) -> Tensor:
    output = model.generate(
        PROMPT,
        max_new_tokens=n,
        do_sample=False,
        return_type="tokens",
        verbose=False,
        stop_at_eos=False,
        use_past_kv_cache=cached,
    )
    assert isinstance(output, Tensor)
    return output


def n_hooks(model: TransformerBridge) -> int:
    points = {id(point): point for point in model.hook_points()}
    return sum(len(p.fwd_hooks) for p in points.values()) + len(model.original_model._forward_pre_hooks)


def test_ablation_leaves_no_projection(model: TransformerBridge) -> None:
    for component in components(model):
        with hooks.ablate(model, direction(), component=component):
            h = activations(model, component)
        for layer in range(3):
            assert (h[layer] @ direction() / direction().norm()).abs().max() < 1e-5


def test_ablating_a_subspace_leaves_none_of_it(llama: TransformerBridge) -> None:
    span = direction(k=3)
    with hooks.ablate(llama, {1: span}):
        h = activations(llama, "resid_post")
    assert (h[1] @ span.T).abs().max() < 1e-4
    assert (h[0] @ span.T).abs().max() > 0.1


def test_addition_moves_by_alpha_along_the_unit_vector(model: TransformerBridge) -> None:
    before = activations(model, "resid_post")[0]
    with hooks.add(model, 7 * direction(), 2.5, layers=[0]):
        after = activations(model, "resid_post")[0]
    torch.testing.assert_close(
        after - before, (2.5 * direction() / direction().norm()).expand_as(before), rtol=1e-4, atol=1e-5
    )


def test_adding_nothing_and_clamping_to_what_is_there_change_nothing(llama: TransformerBridge) -> None:
    v = direction() / direction().norm()
    bare = llama(PROMPT[:1, :1])
    there = float(activations(llama, "resid_post", PROMPT[:1, :1])[1] @ v)
    with hooks.add(llama, v, 0.0), hooks.clamp(llama, {1: v}, there):
        torch.testing.assert_close(llama(PROMPT[:1, :1]), bare, rtol=1e-5, atol=1e-5)


def test_clamping_sets_the_projection(model: TransformerBridge) -> None:
    values = {0: 1.0, 2: -3.0}
    with hooks.clamp(model, direction(), values, layers=[0, 2]):
        h = activations(model, "resid_post")
    for layer, value in values.items():
        torch.testing.assert_close(
            h[layer] @ direction() / direction().norm(), torch.full((2, 5), value), rtol=1e-4, atol=1e-4
        )


def test_ablation_is_clamping_to_zero(llama: TransformerBridge) -> None:
    with hooks.ablate(llama, direction()):
        ablated = llama(PROMPT)
    with hooks.clamp(llama, direction(), 0.0):
        torch.testing.assert_close(llama(PROMPT), ablated, rtol=0, atol=0)


def test_mean_ablation_puts_the_mean_everywhere(model: TransformerBridge) -> None:
    mean = direction(seed=3)
    with hooks.mean_ablate(model, {1: mean}):
        h = activations(model, "resid_post")
    torch.testing.assert_close(h[1], mean.expand_as(h[1]), rtol=0, atol=0)


def test_editing_resid_mid_edits_the_stream_past_the_mlp_too(model: TransformerBridge) -> None:
    """TransformerLens' own hook point of that name is the MLP's branch alone."""
    if "resid_mid" not in components(model):
        with (
            pytest.raises(HookNameError, match="hook_resid_mid"),
            hooks.ablate(model, direction(), component="resid_mid"),
        ):
            pass
        return
    with hooks.mean_ablate(model, {1: torch.zeros(16)}, component="resid_mid"):
        mlp, post = activations(model, "mlp_out"), activations(model, "resid_post")
    torch.testing.assert_close(post[1], mlp[1], rtol=1e-4, atol=1e-4)


def test_patching_a_model_with_itself_changes_nothing(model: TransformerBridge) -> None:
    bare, cache = model.run_with_cache(PROMPT)
    names = [hooks.point_name(layer, c) for layer in range(3) for c in components(model)]
    with hooks.patch(model, cache, names):
        torch.testing.assert_close(model(PROMPT), bare, rtol=1e-5, atol=1e-5)


def test_patching_the_last_site_gives_the_other_run(model: TransformerBridge) -> None:
    other, cache = model.run_with_cache(PROMPT.flip(0))
    for component in ("resid_pre", "resid_post"):
        layer = 0 if component == "resid_pre" else 2
        with hooks.patch(model, cache, [hooks.point_name(layer, component)]):
            torch.testing.assert_close(model(PROMPT), other, rtol=1e-5, atol=1e-5)


def test_heads_can_be_patched(model: TransformerBridge) -> None:
    _, cache = model.run_with_cache(PROMPT.flip(0))
    name = "blocks.1.attn.hook_z"
    with hooks.patch(model, cache, [name], rows=[0]), hooks.record(model, [name]) as kept:
        model(PROMPT)
    torch.testing.assert_close(kept[name][0], cache[name][0], rtol=0, atol=0)
    assert (kept[name][1] - cache[name][1]).abs().max() > 1e-3


def test_tokens_and_rows_choose_what_is_edited(llama: TransformerBridge) -> None:
    chosen = {
        "all": [0, 1, 2, 3, 4],
        "prompt": [0, 1, 2],
        "last_prompt": [2],
        "generated": [3, 4],
        "answer": [2, 3, 4],
    }
    before = activations(llama, "resid_post")[0]
    for tokens, columns in chosen.items():
        with hooks.add(llama, direction(), 1.0, layers=[0], tokens=tokens, rows=[1], prompt_length=3):  # type: ignore[arg-type]
            moved = (activations(llama, "resid_post")[0] - before).norm(dim=-1) > 0.5
        assert moved[1].nonzero().flatten().tolist() == columns
        assert not moved[0].any()


def test_a_prompt_length_for_each_row(llama: TransformerBridge) -> None:
    before = activations(llama, "resid_post")[0]
    with hooks.add(
        llama, direction(), 1.0, layers=[0], tokens="last_prompt", prompt_length=torch.tensor([2, 5])
    ):
        moved = (activations(llama, "resid_post")[0] - before).norm(dim=-1) > 0.5
    assert moved.nonzero().tolist() == [[0, 1], [1, 4]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_touched(llama: TransformerBridge, side: str) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0]])
    name = hooks.point_name(0, "resid_post")

    def run() -> Tensor:
        with torch.no_grad(), hooks.record(llama, [name]) as kept:
            llama(PROMPT, attention_mask=mask)
        return kept[name]

    before = run()
    with hooks.add(llama, direction(), 1.0, layers=[0]):
        assert ((run() - before).norm(dim=-1) > 0.5).tolist() == mask.bool().tolist()
    with hooks.add(llama, direction(), 1.0, layers=[0], tokens="last_prompt"):
        assert ((run() - before).norm(dim=-1) > 0.5).nonzero().tolist() == [
            [0, 4],
            [1, 4 if side == "left" else 2],
        ]


@pytest.mark.parametrize("cached", [True, False])
def test_generation_under_hooks_is_the_same_with_and_without_a_kv_cache(
    model: TransformerBridge, cached: bool
) -> None:
    """A hand loop of full forward passes, hooks told where the prompt ends, is what generation must equal."""
    v = direction(seed=1)
    for tokens in TOKENS:
        length = None if cached else PROMPT.shape[1]
        with hooks.add(model, v, 6.0, tokens=tokens, prompt_length=length):  # type: ignore[arg-type]
            generated = generate(model, cached=cached)
        expected = PROMPT
        with torch.no_grad(), ExitStack() as stack:
            for _ in range(4):
                if tokens != "generated" or expected.shape[1] > PROMPT.shape[1]:
                    adding = hooks.add(model, v, 6.0, tokens=tokens, prompt_length=PROMPT.shape[1])  # type: ignore[arg-type]
                    stack.enter_context(adding)
                expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], 1)
                stack.close()
        assert generated.tolist() == expected.tolist()


def test_hooks_act_under_hugging_face_generate(llama: TransformerBridge) -> None:
    with hooks.add(llama, direction(seed=1), 6.0):
        ours = generate(llama)
        theirs = llama.original_model.generate(PROMPT, max_new_tokens=4, do_sample=False, eos_token_id=None)  # type: ignore[operator]
    assert ours.tolist() == theirs.tolist()


def test_gradients_flow_around_what_is_ablated(llama: TransformerBridge) -> None:
    """None flows along the direction that was projected out, and some does along the others."""
    v = direction() / direction().norm()
    push = torch.zeros(16, requires_grad=True)
    with (
        llama.hooks(fwd_hooks=[(hooks.point_name(0, "resid_post"), lambda h, hook: h + push)]),
        hooks.ablate(llama, v, layers=[0]),
    ):
        llama(PROMPT).square().sum().backward()
    assert push.grad is not None
    assert push.grad.norm() > 1e-3
    assert abs(float(push.grad @ v)) < 1e-4 * float(push.grad.norm())


def test_bfloat16_is_computed_in_float32(llama: TransformerBridge) -> None:
    """The projection left behind is that of rounding the result once, not of rounding every product."""
    h = 100 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    v = direction() / direction().norm()
    left = hooks.ablate_direction(v)(h, None)
    assert left.dtype == torch.bfloat16
    exact = (h.float() - (h.float() @ v)[:, None] * v).bfloat16()
    torch.testing.assert_close(left, exact, rtol=0, atol=0)
    llama.to(torch.bfloat16, print_details=False)
    with torch.no_grad(), hooks.ablate(llama, v):
        assert llama(PROMPT).dtype == torch.bfloat16


def test_rotating_basis_vectors_within_a_subspace_changes_nothing(llama: TransformerBridge) -> None:
    span = direction(k=2)
    mixed = torch.tensor([[1.0, 2.0], [-1.0, 1.0]]) @ span
    with hooks.ablate(llama, {0: span}):
        one = llama(PROMPT)
    with hooks.ablate(llama, {0: mixed}):
        torch.testing.assert_close(llama(PROMPT), one, rtol=1e-4, atol=1e-5)


OPENERS: list[Callable[[TransformerBridge], AbstractContextManager[object]]] = [
    lambda m: hooks.ablate(m, direction()),
    lambda m: hooks.add(m, direction(), 1.0),
    lambda m: hooks.clamp(m, direction(), 1.0),
    lambda m: hooks.mean_ablate(m, {0: direction()}, component="resid_mid"),
    lambda m: hooks.patch(m, {"blocks.0.hook_out": torch.zeros(2, 5, 16)}, ["blocks.0.hook_out"]),
    lambda m: hooks.record_projections(m, direction()),
]


@pytest.mark.parametrize("opener", OPENERS)
def test_hooks_come_off_after_an_exception(
    llama: TransformerBridge, opener: Callable[[TransformerBridge], AbstractContextManager[object]]
) -> None:
    assert n_hooks(llama) == 0
    with pytest.raises(RuntimeError, match="on purpose"), opener(llama):
        assert n_hooks(llama) > 0
        llama(PROMPT)
        raise RuntimeError("on purpose")
    assert n_hooks(llama) == 0
    assert len(llama.blocks[0].mlp._forward_hooks) == 0


def test_what_is_asked_for_and_not_there_is_an_error(llama: TransformerBridge) -> None:
    cases: list[tuple[type[Exception], str, AbstractContextManager[object]]] = [
        (
            HookNameError,
            r"'blocks\.0\.hook_resid_pots'.*hook_resid_post",
            hooks.ablate(llama, direction(), component="resid_pots"),
        ),
        (
            SiteError,
            "Layer 7 does not exist: the model has layers 0 to 2",
            hooks.ablate(llama, {7: direction()}),
        ),
        (
            SiteError,
            r"no direction for layer 1; there are directions for \[0\]",
            hooks.ablate(llama, {0: direction()}, layers=[1]),
        ),
        (SiteError, "No layer chosen", hooks.ablate(llama, {})),
        (SiteError, "width 5; the model's is 16", hooks.ablate(llama, torch.ones(5))),
        (SiteError, r"one vector \[d_model\].*got shape \(2, 16\)", hooks.ablate(llama, direction(k=2))),
        (
            SiteError,
            r"no amount for layer 1; there are amounts for \[0\]",
            hooks.add(llama, direction(), {0: 1.0}, layers=[0, 1]),
        ),
        (
            SiteError,
            r"at layer 0 has shape \(3,\); a number was expected, or one .* its 1 dir.*\{layer: amount\}",
            hooks.clamp(llama, direction(), {0: torch.ones(3)}, layers=[0]),
        ),
        (NonFiniteError, "length zero", hooks.ablate(llama, torch.zeros(16))),
        (NonFiniteError, "NaN", hooks.ablate(llama, torch.full((16,), torch.nan))),
        (NonFiniteError, "linearly dependent", hooks.ablate(llama, {0: direction().expand(2, 16)})),
        (NonFiniteError, "amount at layer 0", hooks.add(llama, direction(), float("inf"))),
        (SiteError, r"No 'blocks\.0\.hook_out' in the cache", hooks.patch(llama, {}, ["blocks.0.hook_out"])),
    ]
    for kind, message, context in cases:
        with pytest.raises(kind, match=message), context:
            pass
    assert n_hooks(llama) == 0


def test_edits_that_touch_nothing_are_errors(llama: TransformerBridge) -> None:
    with (
        pytest.raises(SiteError, match="'generated'.*selected no token"),
        hooks.add(llama, direction(), 1.0, tokens="generated"),
    ):
        llama(PROMPT)
    with pytest.raises(SiteError, match="the batch has 2 rows"), hooks.add(llama, direction(), 1.0, rows=[2]):
        llama(PROMPT)
    with (
        pytest.raises(SiteError, match="3 entries"),
        hooks.add(llama, direction(), 1.0, tokens="prompt", prompt_length=torch.tensor([1, 2, 3])),
    ):
        llama(PROMPT)
    with hooks.add(llama, direction(), 1.0, tokens="generated"):  # opened and not used
        pass


def test_a_generation_that_ends_at_once_is_no_error(model: TransformerBridge) -> None:
    with hooks.add(model, direction(), 1.0, tokens="generated"):
        assert (
            generate(model, n=1).shape[1] == PROMPT.shape[1] + 1
        )  # one forward pass: the answer's only token was never read


def test_a_cache_of_other_prompts_is_an_error(llama: TransformerBridge) -> None:
    _, cache = llama.run_with_cache(PROMPT[:, :3])
    with (
        pytest.raises(SiteError, match=r"shape \(2, 3, 16\), but \(2, 5, 16\)"),
        hooks.patch(llama, cache, ["blocks.0.hook_out"]),
    ):
        llama(PROMPT)


def test_a_reversion_direction_is_taken_as_it_is(llama: TransformerBridge) -> None:
    from revlens import ReversionDirection

    unit = torch.stack([direction(s) / direction(s).norm() for s in (1, 2)])
    v_rev = ReversionDirection(unit.double(), torch.ones(2, dtype=torch.float64), (0, 2), "direction", 4)
    with hooks.ablate(llama, v_rev):
        h = activations(llama, "resid_post")
    assert (h[0] @ unit[0]).abs().max() < 1e-5
    assert (h[1] @ unit[0]).abs().max() > 1e-2
    assert (h[2] @ unit[1]).abs().max() < 1e-5
