"""A Hugging Face model's layers and shape are those of a bridge of the same weights, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from families import FAMILIES, load_hugging_face, save_family
from revlens.errors import GuardError, ProbeError
from revlens.history import boot
from revlens.training.model_parts import decoder_layers, probe_batch, shape_of, tokenizer_of


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_shape_are_those_of_the_bridge(family: str, tmp_path: Path) -> None:
    path = save_family(family, tmp_path)
    bridge, model = boot(path), load_hugging_face(path)
    assert shape_of(model) == shape_of(bridge) == (3, 16)
    assert len(decoder_layers(model)) == len(decoder_layers(bridge)) == 3


def test_what_cannot_be_guarded_is_an_error(tmp_path: Path) -> None:
    model = load_hugging_face(save_family("llama", tmp_path))
    with pytest.raises(GuardError, match="LlamaForCausalLM has no tokenizer; pass it as tokenizer="):
        tokenizer_of(model, None)
    with pytest.raises(GuardError, match="needs a TransformerBridge or a Hugging Face model, got a Linear"):
        shape_of(nn.Linear(2, 2))
    with pytest.raises(ProbeError, match="No prompts, so the guard would do nothing"):
        probe_batch(model, [], None)
    assert isinstance(model.base_model, nn.Module)
    model.base_model.twin = nn.ModuleList(nn.Identity() for _ in range(3))
    with pytest.raises(
        GuardError, match="LlamaForCausalLM has 2 lists of 3 layers in its decoder; expected one"
    ):
        decoder_layers(model)
