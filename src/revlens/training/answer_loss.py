"""The loss of chat fine-tuning, cross-entropy on answers: of a batch, and of a held-out data set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformer_lens.model_bridge import TransformerBridge

from revlens.hooks import without_dropout
from revlens.prompts import pad_id_of
from revlens.training.chat_data import IGNORE, ChatBatch, collate, encode_examples
from revlens.training.streams import logits_of
from revlens.training.task_tokens import task_batch

#: Opens an intervention for a forward pass, given how many tokens of each row are prompt (None: all).
Around = Callable[[Int[Tensor, " batch"] | None], AbstractContextManager[object]]


def answer_loss(model: nn.Module, batch: ChatBatch) -> Float[Tensor, ""]:
    """Mean cross-entropy over answer tokens, in nats."""
    device = next(model.parameters()).device
    with task_batch("finetune", batch._asdict()):
        logits = logits_of(model, batch.tokens.to(device))
    return cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten().to(device), ignore_index=IGNORE
    )


def unaltered(prompt_length: Int[Tensor, " batch"] | None) -> AbstractContextManager[object]:
    """Open no intervention."""
    return nullcontext()


@torch.no_grad()
def task_loss(
    model: TransformerBridge, data: Dataset, *, batch_size: int = 64, around: Around = unaltered
) -> float:
    """Mean cross-entropy per answer token on held-out data, in nats; exp of it is the perplexity.

    Args:
        model: any bridge; dropout is off.
        data: columns ``prompt`` and ``answer``.
        batch_size: rows per forward pass.
        around: opens an intervention for each forward pass.

    Raises:
        ConfigError: see `revlens.training.encode_examples`.
    """
    examples = encode_examples(model.tokenizer, data, model=model)
    total, count = 0.0, 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        n_tokens = sum(len(example.answer) for example in chunk)
        with without_dropout(model), around(torch.tensor([len(example.prompt) for example in chunk])):
            total += float(answer_loss(model, collate(chunk, pad_id_of(model.tokenizer)))) * n_tokens
        count += n_tokens
    return total / count
