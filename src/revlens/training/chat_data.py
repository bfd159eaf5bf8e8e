"""Chat examples as training batches, with the loss on the answer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.chat_templates import end_of_turn
from revlens.context import check_context, context_of
from revlens.errors import ConfigError
from revlens.prompts import encode_prompts, pad_id_of

IGNORE = -100  # torch's default ignore_index


class ChatBatch(NamedTuple):
    """Right-padded tokens; labels are `IGNORE` on prompt and padding."""

    tokens: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]


class Example(NamedTuple):
    """Token ids of one exchange."""

    prompt: list[int]
    answer: list[int]


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, data: Dataset, *, model: nn.Module | None = None
) -> list[Example]:
    """Tokenize columns ``prompt`` and ``answer``; answers end as the chat template ends a turn.

    Args:
        tokenizer: has a chat template.
        data: the rows.
        model: whose context the rows must fit; not checked if None.

    Raises:
        ConfigError: if a column is missing, there are no rows, nothing ends an answer, or a row does not fit
            the model's context.
    """
    missing = {"prompt", "answer"} - set(data.column_names)
    if missing:
        raise ConfigError(f"Training data lacks column(s) {sorted(missing)}; it has {data.column_names}.")
    if len(data) == 0:
        raise ConfigError("Training data has no rows.")
    prompts = encode_prompts(tokenizer, list(data["prompt"]))
    answers = tokenizer(list(data["answer"]), add_special_tokens=False)["input_ids"]
    end = end_of_turn(tokenizer).ids
    if not end:
        raise ConfigError(
            "Neither the chat template nor the tokenizer ends an answer, so a model would learn to go on for "
            "ever; set tokenizer.eos_token."
        )
    examples = [Example(prompt, [*answer, *end]) for prompt, answer in zip(prompts, answers, strict=True)]
    if model is not None:
        lengths = [len(example.prompt) + len(example.answer) for example in examples]
        check_context(context_of(model), lengths, list(data["prompt"]), what="Row")
    return examples


def collate(examples: Sequence[Example], pad_id: int) -> ChatBatch:
    """Pad on the right: under causal attention, padding changes nothing before it."""
    width = max(len(e.prompt) + len(e.answer) for e in examples)
    tokens = torch.full((len(examples), width), pad_id, dtype=torch.long)
    labels = torch.full_like(tokens, IGNORE)
    for i, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        tokens[i, :end] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return ChatBatch(tokens, labels)


def batches(
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    *,
    batch_size: int,
    seed: int,
    sort_window: int = 1,
    model: nn.Module | None = None,
) -> Iterator[ChatBatch]:
    """Endless batches: each pass takes the rows in a new order, fixed by ``seed``, and drops a partial batch.

    With a ``sort_window`` above 1, the rows of that many batches at a time are sorted by length, which saves
    padding, and their batches come in a random order.

    Raises:
        ConfigError: if there are fewer rows than one batch; also see `encode_examples`.
    """
    examples = encode_examples(tokenizer, data, model=model)
    if len(examples) < batch_size:
        raise ConfigError(f"batch_size={batch_size} exceeds the {len(examples)} rows of training data.")
    generator = torch.Generator().manual_seed(seed)
    pad_id = pad_id_of(tokenizer)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        n_whole = len(order) // batch_size * batch_size
        for start in range(0, n_whole, batch_size * sort_window):
            window = order[start : min(start + batch_size * sort_window, n_whole)]
            firsts = list(range(0, len(window), batch_size))
            if sort_window > 1:
                window.sort(key=lambda i: len(examples[i].prompt) + len(examples[i].answer))
                firsts = [firsts[i] for i in torch.randperm(len(firsts), generator=generator).tolist()]
            for first in firsts:
                yield collate([examples[i] for i in window[first : first + batch_size]], pad_id)


def count_answer_tokens(batch: ChatBatch) -> int:
    """How many tokens the loss is on."""
    return int((batch.labels != IGNORE).sum())


def micro_batches(batch: ChatBatch, size: int | None, n_tokens: int) -> Iterator[tuple[ChatBatch, float]]:
    """Parts of at most ``size`` rows, all at once if None, each with the weight of its mean loss.

    Args:
        batch: whole rows.
        size: rows a part.
        n_tokens: answer tokens of the update; the weight is the part's share of them.
    """
    rows = len(batch.tokens)
    for start in range(0, rows, size or rows):
        part = ChatBatch(*(tensor[start : start + (size or rows)] for tensor in batch))
        yield part, count_answer_tokens(part) / n_tokens
