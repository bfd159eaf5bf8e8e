from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from families import FAMILIES, PROMPTS, SIZES, random_model, save_family
from revlens.errors import HistoryError
from revlens.history import TrainingHistory, boot, save
from revlens.history.wrap import wrap
from revlens.organism.model import train_tokenizer
from revlens.prompts import encode_prompts

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])


def trained_weights_are_saved(model: TransformerBridge, path: Path) -> None:
    before = model(TOKENS).detach()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(TOKENS).logsumexp(-1).sum().backward()
    optimizer.step()
    live = model(TOKENS).detach()
    assert (live - before).abs().max() > 0.1
    save(model, path)
    hf = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    torch.testing.assert_close(hf(TOKENS).logits.detach(), live, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(boot(path)(TOKENS).detach(), live, rtol=0, atol=0)
    hf.save_pretrained(path.with_name("again"))  # nothing in its configuration stands in the way


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_is_saved_and_fits_the_history_in_every_family(family: str, tmp_path: Path) -> None:
    aligned = save_family(family, tmp_path / "aligned")
    trained_weights_are_saved(boot(aligned), tmp_path / "saved")
    history = TrainingHistory.from_dirs(aligned, aligned, {1: tmp_path / "saved"})
    prompts = [encode_prompts(c.load().tokenizer, PROMPTS) for c in history]
    assert prompts[0] == prompts[1] == prompts[2]
    assert encode_prompts(boot(tmp_path / "saved").tokenizer, PROMPTS) == prompts[0]


@pytest.mark.parametrize(
    "family", ["phi3", "falcon"]
)  # fused gate and up; one key and value head for all queries
def test_other_layouts_of_fused_weights(family: str, tmp_path: Path) -> None:
    sizes = (
        SIZES
        if family == "phi3"
        else {
            name: SIZES[name]
            for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        }
    )
    hf = random_model(sizes | {"model_type": family})
    trained_weights_are_saved(wrap(hf, train_tokenizer(["any text"], 264)), tmp_path / "saved")


def test_weights_without_a_place_in_the_model_are_named(llama: TransformerBridge, tmp_path: Path) -> None:
    llama.original_model.register_parameter("probe", nn.Parameter(torch.zeros(3)))
    with pytest.raises(HistoryError, match="has no place for: probe"):
        save(llama, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_compatibility_mode_has_processed_are_not_saved(tmp_path: Path) -> None:
    path = save_family("gpt2", tmp_path / "aligned")
    bridge = boot(path)
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)  # as the message advises
    save(bridge, tmp_path / "again")
    torch.testing.assert_close(boot(tmp_path / "again")(TOKENS), bridge(TOKENS), rtol=0, atol=1e-6)
    bridge = boot(path)
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(HistoryError, match=r"were processed.*no_processing=True"):
        save(bridge, tmp_path / "processed")
    assert not (tmp_path / "processed").exists()
