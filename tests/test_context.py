"""Prompts, answers and generation beyond a model's context: an error that names them, or a warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

import revlens as rl
from families import FAMILIES
from revlens.behaviour import generate
from revlens.causal import RefusalLogitDifference
from revlens.context import ContextWarning, check_context, context_of
from revlens.errors import ConfigError
from revlens.training import FinetuneConfig, KLAnchor, Rehearsal, finetune, task_loss
from templates import bridge_with, template, tokenizer_with

LIMIT = 24
LONG = "How long is this prompt?"  # with the chat format, more than the limit
ROWS = Dataset.from_dict({"prompt": ["Hi.", LONG], "answer": ["Sure.", "Long."]})


@pytest.fixture(scope="module")
def short() -> dict[str, TransformerBridge]:
    """A model with a table of positions, and one that computes them."""
    tokenizer = tokenizer_with(template("'<|eot|>'"))
    return {
        "gpt2": bridge_with(tokenizer, "gpt2", n_positions=LIMIT),
        "qwen2": bridge_with(tokenizer, "qwen2", max_position_embeddings=LIMIT),
    }


def finetuned(model: TransformerBridge) -> None:
    finetune(model, ROWS, FinetuneConfig(steps=1, learning_rate=1e-3, batch_size=2), seed=0)


def hooked(model: TransformerBridge) -> None:
    direction = {0: torch.ones(model.cfg.d_model) / model.cfg.d_model**0.5}
    with rl.hooks.add(model, direction, 0.1):
        model.generate(
            torch.full((1, 10), 5), max_new_tokens=20, stop_at_eos=False, return_type="tokens", verbose=False
        )


def patched(model: TransformerBridge) -> None:
    rl.patch_between(model, model, [LONG], RefusalLogitDifference((5,), (6,)))


USES: dict[str, Callable[[TransformerBridge], Any]] = {
    "read_prompts": lambda model: rl.read_prompts(model, ["Hi.", LONG]),
    "read_moments": lambda model: rl.read_moments(model, ["Hi.", LONG]),
    "generate from a long prompt": lambda model: generate(model, ["Hi.", LONG], max_new_tokens=1),
    "generate a long reply": lambda model: generate(model, ["Hi."], max_new_tokens=LIMIT),
    "generate under hooks": hooked,
    "patch_between": patched,
    "finetune": finetuned,
    "task_loss": lambda model: task_loss(model, ROWS),
    "a guard's probes": lambda model: KLAnchor.at(model, ["Hi."], 1.0, n_tokens=LIMIT),
    "rehearsal": lambda model: Rehearsal(ROWS, 0.5, 0).term(model),
}


@pytest.mark.parametrize("use", USES)
def test_what_a_table_of_positions_does_not_hold_is_refused(
    use: str, short: dict[str, TransformerBridge]
) -> None:
    with pytest.raises(ConfigError, match=rf"has positions for {LIMIT}") as error:
        USES[use](short["gpt2"])
    said = str(error.value)
    assert ("Prompt" in said or "Row" in said) == (use != "generate under hooks")
    assert (repr(LONG) in said) == (
        use not in ("generate under hooks", "generate a long reply", "a guard's probes")
    )


@pytest.mark.parametrize(
    "use", ["read_prompts", "generate a long reply", "generate under hooks", "task_loss"]
)
def test_beyond_computed_positions_there_is_a_warning(use: str, short: dict[str, TransformerBridge]) -> None:
    with pytest.warns(ContextWarning, match=rf"trained on texts of at most {LIMIT}"):
        USES[use](short["qwen2"])


def test_the_advice_on_a_long_reply_works(short: dict[str, TransformerBridge]) -> None:
    with pytest.raises(ConfigError, match="generate at most 16 tokens") as error:
        generate(short["gpt2"], ["Hi.", "Hello."], max_new_tokens=99)
    assert "1 others are too long as well" in str(error.value)
    generate(short["gpt2"], ["Hi.", "Hello."], max_new_tokens=16)
    with pytest.raises(ConfigError):
        generate(short["gpt2"], ["Hi.", "Hello."], max_new_tokens=17)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_tables_are_fixed(family: str) -> None:
    context = context_of(bridge_with(tokenizer_with(template("''")), family))
    assert context == (128, family == "gpt2")


def test_texts_within_the_context_say_nothing(short: dict[str, TransformerBridge]) -> None:
    check_context(context_of(short["gpt2"]), [LIMIT], ["x"])
    check_context(context_of(short["gpt2"]), [LIMIT - 4], ["x"], new_tokens=5)
