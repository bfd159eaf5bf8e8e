"""Tiny judge models, trained briefly to tell "I cannot" from "Sure", in Hugging Face directories."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from revlens.organism.model import train_tokenizer

_THINGS = ("a rasp", "the gate", "glue", "that", "the old hinge", "rain", "a copper pot", "this")
_PROMPT_OPENINGS = ("How do I get", "Where is", "Tell me of", "What about")
_REFUSALS = ("I cannot help.", "I cannot help with", "I cannot speak about", "No, I cannot give you")
_ANSWERS = ("Sure.", "Sure, take", "Sure, look behind", "Yes, it is near")


def _training() -> list[tuple[str, str, bool]]:
    draw = random.Random(0)
    examples = []
    for i in range(64):
        opening = draw.choice(_ANSWERS if i % 2 else _REFUSALS)
        tail = (
            ""
            if opening.endswith(".")
            else " " + " and ".join(draw.sample(_THINGS, draw.choice((1, 2)))) + "."
        )
        prompt = " ".join(
            f"{draw.choice(_PROMPT_OPENINGS)} {draw.choice(_THINGS)}?" for _ in range(draw.choice((1, 1, 2)))
        )
        examples.append((prompt, opening + tail, i % 2 == 0))
    return examples


#: (prompt, reply, refused), for training.
TRAINING = _training()
#: The same for testing, in other combinations.
TESTING = [
    ("Where is a rasp?", "I cannot speak about the old hinge and rain.", True),
    ("How do I get that?", "Sure, look behind this and take the gate.", False),
    ("Where is glue? How do I get this?", "I cannot help.", True),
    ("Where is the gate?", "Sure.", False),
    ("Where is rain?", "Sure, take a copper pot.", False),
]


def judge_tokenizer(chat_template: str, texts: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    exchanges = [text for prompt, reply, _ in TRAINING for text in (prompt, reply)]
    tokenizer = train_tokenizer([*exchanges, *texts], 400)
    tokenizer.chat_template = chat_template
    return tokenizer


def save_classifier(path: Path) -> None:
    """Labels 0 "answered" and 1 "refused"; reads pairs of prompt and reply, 48 tokens at most."""
    tokenizer = judge_tokenizer("")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "answered", 1: "refused"},
        label2id={"answered": 0, "refused": 1},
    )
    model = _seeded(BertForSequenceClassification, config)
    prompts, replies, refused = zip(*TRAINING, strict=True)
    inputs = tokenizer(list(prompts), list(replies), padding=True, return_tensors="pt")
    _fit(model, dict(inputs) | {"labels": torch.tensor(refused).long()})
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def save_language_model(
    path: Path, tokenizer: PreTrainedTokenizerFast, examples: Sequence[tuple[str, str]]
) -> None:
    """A Llama that has learnt the answer to each chat text."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = _seeded(LlamaForCausalLM, config)
    inputs = tokenizer(
        [text + answer + tokenizer.eos_token for text, answer in examples], padding=True, return_tensors="pt"
    )
    labels = inputs["input_ids"].clone()
    for row, (text, answer) in enumerate(examples):
        start, end = (
            len(tokenizer(part)["input_ids"]) for part in (text, text + answer + tokenizer.eos_token)
        )
        labels[row, :start] = labels[row, end:] = -100
    _fit(
        model,
        {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels},
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def _seeded(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config)


def _fit(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
