"""Passes over the last token alone, on a cache, in every architecture family."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens import hooks
from revlens.errors import ConfigError
from revlens.forward import last_token_passes

PROMPTS = ("Hi.", "A longer prompt, with more tokens in it than the small window has room for.", "What now?")


@pytest.fixture
def chatty(model: TransformerBridge) -> TransformerBridge:
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return model


def test_a_pass_over_the_last_token_equals_whole_prompts(chatty: TransformerBridge) -> None:
    v = torch.randn(16, generator=torch.Generator().manual_seed(0))
    rows = [torch.tensor([chatty.tokenizer(p)["input_ids"]]) for p in PROMPTS]
    passes = last_token_passes(chatty, PROMPTS, batch_size=2)
    with torch.no_grad():
        for _ in range(2):  # a pass leaves its cache as it was
            bare = torch.cat([run() for run in passes])
            with hooks.add(chatty, v, 3.0, tokens="answer"):
                moved = torch.cat([run() for run in passes])
            torch.testing.assert_close(
                bare, torch.cat([chatty(row)[:, -1] for row in rows]), rtol=1e-4, atol=1e-5
            )
            with hooks.add(chatty, v, 3.0, tokens="last_prompt"):
                torch.testing.assert_close(
                    moved, torch.cat([chatty(row)[:, -1] for row in rows]), rtol=1e-4, atol=1e-5
                )
            assert (moved - bare).abs().max() > 1e-2


def test_a_batch_holds_a_prompt(llama: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        last_token_passes(llama, PROMPTS, batch_size=0)
