"""L2-SP in exact cases."""

from __future__ import annotations

import pytest
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import GuardError
from revlens.history import TrainingHistory
from revlens.training import L2SP
from training.fine_tunes import trained, weights


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
        GuardError, match="trains other parameters than L2SP was made for, such as model.embed_tokens"
    ):
        guard.term(aligned)
    aligned.requires_grad_(False)
    with pytest.raises(GuardError, match="L2SP would do nothing"):
        L2SP.at(aligned, 1.0)
