"""The vocabulary readout of a direction."""

from __future__ import annotations

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.causal import vocabulary_readout
from revlens.direction import ReversionDirection, nulls


def total(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


def direction() -> ReversionDirection:
    unit = nulls.isotropic_directions(1, 3, 16, seed=0)[0]
    return ReversionDirection(unit, torch.full((3,), 2.0, dtype=torch.float64), (0, 1, 2), "direction", 4)


def test_the_readout_of_an_unembedding_row_names_its_token(model: TransformerBridge) -> None:
    """The direction that a token's unembedding reads best, through a norm without gain, promotes it most."""
    with torch.no_grad():
        model.ln_final.original_component.weight.fill_(0.0 if model.cfg.rmsnorm_uses_offset else 1.0)
        rows = model.W_U.T.double()
    token = 17
    centred = rows[token] - rows[token].mean()
    v_rev = ReversionDirection(
        (centred / centred.norm())[None], torch.ones(1, dtype=torch.float64), (1,), "direction", 4
    )
    found = vocabulary_readout(model, v_rev, total, n_draws=20)
    expected = rows @ v_rev.unit[0]
    order = found.logits[0].double()
    assert torch.corrcoef(torch.stack([order, expected]))[0, 1] > 0.98
    assert found.top(3).shape == (1, 3)
    assert set(found.top(3)[0].tolist()).isdisjoint(found.top(3, bottom=True)[0].tolist())


def test_the_readout_is_odd_up_to_the_bias_and_its_null_is_centred(llama: TransformerBridge) -> None:
    v_rev = direction()
    flipped = ReversionDirection(-v_rev.unit, v_rev.gap, v_rev.layers, "direction", 4)
    one, other = (vocabulary_readout(llama, v, total, n_draws=400) for v in (v_rev, flipped))
    torch.testing.assert_close(one.score, -other.score, rtol=1e-4, atol=1e-5)
    assert (one.null.mean(0).abs() < 5 * one.null.std(0) / 20).all()
    assert ((one.p_values() > 0) & (one.p_values() <= 1)).all()
    assert list(one.to_dataframe()["layer"]) == [0, 1, 2]
