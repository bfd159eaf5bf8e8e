"""A Hugging Face model's layers and shape are those of a bridge of the same weights, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from families import FAMILIES, load_hugging_face, save_family
from revlens.errors import GuardError, ProbeError
from revlens.history import boot
from revlens.prompts import Batch
from revlens.training import ConstrainedLoss, logits_of
from revlens.training.model_parts import decoder_layers, probe_batch, shape_of, tokenizer_of
from revlens.training.streams import read_logits


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


def test_a_model_without_a_language_model_head_has_no_logits(tmp_path: Path) -> None:
    save_family("llama", tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokens = torch.tensor([[1, 5, 6]])
    for needs_logits in (
        lambda: logits_of(classifier, tokens),
        lambda: read_logits(classifier, Batch(tokens, torch.ones_like(tokens))),
        lambda: ConstrainedLoss.at(classifier, 1.0).around_task(classifier).__enter__(),
    ):
        with pytest.raises(GuardError, match="LlamaForSequenceClassification has no language-model head"):
            needs_logits()
