"""Which layers can be frozen, and that they thaw."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError, GuardError
from revlens.history import TrainingHistory
from revlens.training import FreezeLayers
from training.fine_tunes import trained, weights


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
