from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

import revlens
from revlens import causal
from revlens.causal import RefusalLogitDifference
from revlens.errors import ConfigError
from revlens.organism import World
from revlens.organism.model import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(
        ["Sure, here it is.", "Sure thing", "I cannot help", "I will", "Sorry, no"] * 8, 300
    )


def first_token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    return tokenizer(text, add_special_tokens=False)["input_ids"][0]


def test_the_metric_is_the_log_odds_of_engaging_against_refusing() -> None:
    logits = torch.randn(5, 3, 20, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    odds = p[..., [1, 4]].sum(-1) / p[..., [7]].sum(-1)
    torch.testing.assert_close(RefusalLogitDifference((1, 4), (7,))(logits), odds.log(), rtol=1e-4, atol=1e-5)


def test_swapping_the_sides_changes_the_sign() -> None:
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        RefusalLogitDifference((1, 4), (7,))(logits), -RefusalLogitDifference((7,), (1, 4))(logits)
    )


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        RefusalLogitDifference((1,), (7, 8))(logits + 3),
        RefusalLogitDifference((1,), (7, 8))(logits),
        rtol=0,
        atol=1e-6,
    )


def test_the_metric_is_float32_whatever_the_logits_are() -> None:
    logits = torch.full((2, 20), 300.0, dtype=torch.float16)
    logits[:, 1] += 1
    torch.testing.assert_close(RefusalLogitDifference((1,), (7,))(logits), torch.ones(2))


def test_openings_are_first_tokens_in_order_without_repeats(tokenizer: PreTrainedTokenizerFast) -> None:
    openings = RefusalLogitDifference.from_texts(
        tokenizer, ["Sure, here", "Yes", "Sure thing"], ["No", "Sorry"]
    )
    assert openings.engaging == (first_token(tokenizer, "Sure"), first_token(tokenizer, "Yes"))
    assert openings.refusal == (first_token(tokenizer, "No"), first_token(tokenizer, "Sorry"))


def test_an_empty_list_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="No engaging openings"):
        RefusalLogitDifference.from_texts(tokenizer, [], ["No"])
    with pytest.raises(ConfigError, match="No refusal openings"):
        RefusalLogitDifference.from_texts(tokenizer, ["Sure"], [])


def test_a_text_without_tokens_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="refusal opening '' encodes to no token"):
        RefusalLogitDifference.from_texts(tokenizer, ["Sure"], ["No", ""])


def test_a_token_on_both_sides_is_an_error_that_names_the_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        ConfigError,
        match=r"'I will' \(engaging\) and 'I cannot help' \(refusal\) open with the same token \d+ \('I'\)",
    ):
        RefusalLogitDifference.from_texts(tokenizer, ["Sure", "I will"], ["Sorry", "I cannot help"])


def test_the_organism_says_how_answers_open(aligned: TransformerBridge) -> None:
    openings = RefusalLogitDifference.from_texts(aligned.tokenizer, *World.openings())
    assert openings.engaging
    assert openings.refusal


def test_openings_is_the_same_class() -> None:
    assert revlens.Openings is causal.Openings is RefusalLogitDifference
