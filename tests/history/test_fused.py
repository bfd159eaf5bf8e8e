from __future__ import annotations

import pytest
import torch

from families import FAMILIES, small_model
from revlens.errors import HistoryError
from revlens.history.fused import fused_projections

FUSED = ("gpt2", "gpt_neox")


@pytest.mark.parametrize("family", FAMILIES)
def test_only_families_with_fused_weights_have_any(family: str) -> None:
    names = [fused.name for fused in fused_projections(small_model(family).original_model)]
    assert len(names) == len(set(names)) == (3 if family in FUSED else 0)


@pytest.mark.parametrize("family", FUSED)
def test_joining_the_parts_undoes_the_split(family: str) -> None:
    model = small_model(family)
    for fused in fused_projections(model.original_model):
        joined = fused.joined()
        assert joined.keys() == {f"{fused.name}.weight", f"{fused.name}.bias"}
        for key, value in fused.module.named_parameters():
            assert torch.equal(joined[f"{fused.name}.{key}"], value)
            assert joined[f"{fused.name}.{key}"].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("family", FUSED)
def test_reconnected_parts_compute_their_rows_with_the_fused_weight(family: str) -> None:
    model = small_model(family)
    tokens = torch.tensor([[5, 6, 7, 8]])
    before = model(tokens).detach()
    for fused in fused_projections(model.original_model):
        fused.reconnect()
    torch.testing.assert_close(model(tokens).detach(), before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for fused in fused_projections(model.original_model):
            next(fused.module.parameters()).zero_()
    assert (model(tokens).detach() - before).abs().max() > 1e-3


def test_a_split_that_mixes_rows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gpt2")
    attention = model.blocks[1].attn
    split = attention.split_qkv_matrix

    def mixed(component: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
        q, k, v = split(component)
        q.weight = torch.nn.Parameter(q.weight + k.weight)
        return q, k, v

    monkeypatch.setattr(attention, "split_qkv_matrix", mixed)
    with pytest.raises(HistoryError, match=r"splits transformer\.h\.1\.attn\.c_attn in a way"):
        fused_projections(model.original_model)
