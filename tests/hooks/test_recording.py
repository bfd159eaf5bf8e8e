from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import HookNameError, SiteError
from revlens.hooks import record, record_projections

TOKENS = torch.tensor([[5, 6, 7, 8]])
NAMES = ["blocks.0.hook_resid_post", "blocks.2.hook_out"]


def n_hooks(model: TransformerBridge) -> int:
    points = {id(point): point for point in model.hook_points()}  # one under several names counts once
    return sum(len(point.fwd_hooks) for point in points.values())


def test_record_equals_run_with_cache(aligned: TransformerBridge) -> None:
    with torch.no_grad(), record(aligned, NAMES) as kept:
        aligned(TOKENS)
    _, cache = aligned.run_with_cache(TOKENS)
    assert list(kept) == NAMES
    for name in NAMES:
        torch.testing.assert_close(kept[name], cache[name], rtol=0, atol=0)


def test_record_changes_nothing(aligned: TransformerBridge) -> None:
    bare = aligned(TOKENS)
    with record(aligned, NAMES):
        recorded = aligned(TOKENS)
    torch.testing.assert_close(recorded, bare, rtol=0, atol=0)


def test_record_keeps_the_graph(aligned: TransformerBridge) -> None:
    with record(aligned, NAMES[:1], select=lambda x: x[:, -1]) as kept:
        aligned(TOKENS)
    assert kept[NAMES[0]].shape == (1, 16)
    (gradient,) = torch.autograd.grad(kept[NAMES[0]].sum(), [aligned.W_E])
    assert gradient.abs().sum() > 0


def test_hooks_come_off_also_after_an_exception(aligned: TransformerBridge) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), record(aligned, NAMES):
        assert n_hooks(aligned) == 2
        raise RuntimeError("on purpose")
    assert n_hooks(aligned) == 0


def test_an_unknown_name_suggests_near_ones(aligned: TransformerBridge) -> None:
    with (
        pytest.raises(HookNameError, match=r"'blocks\.0\.hook_resid_pots'.*blocks\.0\.hook_resid_post"),
        record(aligned, ["blocks.0.hook_resid_pots"]),
    ):
        pass
    assert n_hooks(aligned) == 0


def test_projections_equal_those_from_a_full_cache(model: TransformerBridge) -> None:
    v = torch.randn(16, generator=torch.Generator().manual_seed(0))
    _, cache = model.run_with_cache(TOKENS)
    for component in ("resid_post", "attn_out"):
        with record_projections(model, {0: v, 2: v}, component=component) as projections:
            model(TOKENS)
        for layer in (0, 2):
            expected = cache[f"blocks.{layer}.hook_{component}"] @ v / v.norm()
            torch.testing.assert_close(projections[layer], expected, rtol=1e-4, atol=1e-5)


def test_projections_of_a_subspace_have_an_axis_for_it(llama: TransformerBridge) -> None:
    span = torch.eye(16)[:3]
    with record_projections(llama, {1: span}) as projections:
        llama(TOKENS)
    _, cache = llama.run_with_cache(TOKENS)
    torch.testing.assert_close(projections[1], cache["blocks.1.hook_out"][..., :3], rtol=1e-5, atol=1e-6)


def test_projections_of_generated_tokens_follow_the_prompt(model: TransformerBridge) -> None:
    v = torch.randn(16, generator=torch.Generator().manual_seed(0))
    with record_projections(model, v) as projections:
        text = model.generate(
            TOKENS, max_new_tokens=4, do_sample=False, return_type="tokens", verbose=False, stop_at_eos=False
        )
        generated = projections[1]
        assert isinstance(text, torch.Tensor)
        with torch.no_grad():
            model(text[:, :-1])  # the last token was never read
        torch.testing.assert_close(generated, projections[1], rtol=1e-4, atol=1e-4)


def test_projections_of_nothing_are_errors(llama: TransformerBridge) -> None:
    with record_projections(llama, {1: torch.ones(16)}) as projections:
        with pytest.raises(SiteError, match="No forward pass"):
            projections[1]
        with pytest.raises(SiteError, match=r"Layer 0 is not recorded; there are \[1\]"):
            projections[0]
