"""A Hugging Face model's streams and logits are those of a bridge of the same weights, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoTokenizer

from families import FAMILIES, PROMPTS, load_hugging_face, save_family
from revlens.activations import Sites, read_prompts
from revlens.behaviour import generate
from revlens.history import boot
from revlens.training.model_parts import decoder_layers, probe_batch
from revlens.training.streams import edit_streams, logits_of, read_logits, read_streams


@pytest.fixture(scope="module", params=list(FAMILIES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def llama_dir(tmp_path: Path) -> Path:
    return save_family("llama", tmp_path / "llama")


@torch.no_grad()
def test_streams_are_those_of_the_bridge(saved: Path) -> None:
    bridge, model, tokenizer = boot(saved), load_hugging_face(saved), AutoTokenizer.from_pretrained(saved)
    batch = probe_batch(model, PROMPTS, tokenizer)
    expected = read_prompts(bridge, PROMPTS, Sites(layers=(0, 2)))
    torch.testing.assert_close(read_streams(model, batch, (0, 2)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read_streams(bridge, probe_batch(bridge, PROMPTS, None), (0, 2)), expected)


@pytest.mark.parametrize("last", [1, 3])
@torch.no_grad()
def test_logits_are_those_of_bare_forward_passes(saved: Path, last: int) -> None:
    bridge, model, tokenizer = boot(saved), load_hugging_face(saved), AutoTokenizer.from_pretrained(saved)
    batch = probe_batch(model, PROMPTS, tokenizer)
    rows = [tokens[mask == 1] for tokens, mask in zip(*batch, strict=True)]
    expected = torch.stack([model(row[None]).logits[0, -last:] for row in rows])
    torch.testing.assert_close(read_logits(model, batch, last), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read_logits(bridge, batch, last), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_right_padding_changes_nothing_before_it(saved: Path) -> None:
    model = load_hugging_face(saved)
    tokens = torch.tensor([[5, 6, 7, 8, 0, 0, 0]])
    torch.testing.assert_close(
        logits_of(model, tokens)[:, :4], model(tokens[:, :4]).logits, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        logits_of(boot(saved), tokens)[:, :4], model(tokens[:, :4]).logits, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_an_edit_of_a_stream_is_the_same_in_both(saved: Path) -> None:
    bridge, model = boot(saved), load_hugging_face(saved)
    tokens = torch.tensor([[5, 6, 7, 8]])
    plain = logits_of(model, tokens)

    def edit(stream: Tensor) -> Tensor:
        return stream * torch.linspace(0.0, 2.0, 16)

    edited = []
    for one in (bridge, model):
        with edit_streams(one, {1: edit}):
            edited.append(logits_of(one, tokens))
    torch.testing.assert_close(edited[0], edited[1], rtol=1e-4, atol=1e-5)
    assert (edited[1] - plain).abs().max() > 1e-3
    assert torch.equal(logits_of(model, tokens), plain), "the edit comes off"


def test_a_gradient_flows_to_every_layer_below(saved: Path) -> None:
    model = load_hugging_face(saved)
    batch = probe_batch(model, PROMPTS, AutoTokenizer.from_pretrained(saved))
    read_streams(model, batch, (1,)).square().sum().backward()
    below, above = (
        any(p.grad is not None and p.grad.any() for p in decoder_layers(model)[i].parameters())
        for i in (1, 2)
    )
    assert below
    assert not above


def test_reading_is_without_dropout_and_leaves_every_mode_as_it_was(tmp_path: Path) -> None:
    model: Any = load_hugging_face(save_family("gpt2", tmp_path))
    batch = probe_batch(model, PROMPTS, AutoTokenizer.from_pretrained(tmp_path))
    expected = read_streams(model, batch, (2,))
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    torch.testing.assert_close(read_streams(model, batch, (2,)), expected, rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes


def test_a_bridge_is_read_without_dropout_that_no_component_wraps(tmp_path: Path) -> None:
    """GPT-2 drops out embeddings; nothing that is read in training mode, as in `finetune`, may have it."""
    bridge: Any = boot(save_family("gpt2", tmp_path))
    batch = probe_batch(bridge, PROMPTS, None)

    def reads() -> tuple[Tensor, Tensor, list[str]]:
        return (
            read_streams(bridge, batch, (2,)).detach(),
            read_prompts(bridge, PROMPTS),
            generate(bridge, PROMPTS, max_new_tokens=6),
        )

    *expected, replies = reads()
    bridge.train()
    *found, again = reads()
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    assert again == replies
    assert bridge.original_model.transformer.drop.training


# peft itself uses what transformers deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@torch.no_grad()
def test_an_adapter_is_read_with_its_base(llama_dir: Path) -> None:
    base, tokenizer = load_hugging_face(llama_dir), AutoTokenizer.from_pretrained(llama_dir)
    batch = probe_batch(base, PROMPTS, tokenizer)
    before = read_streams(base, batch, (2,))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.testing.assert_close(read_streams(model, batch, (2,)), before)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.3)
    moved = read_streams(model, batch, (2,))
    assert (moved - before).abs().max() > 1e-3
    torch.testing.assert_close(
        read_streams(model.merge_and_unload(), batch, (2,)), moved, rtol=1e-4, atol=1e-5
    )
