from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import HookNameError
from revlens.hooks import record

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
