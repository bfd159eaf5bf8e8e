"""The reversion fraction that one update on each training row would cause, to first order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformer_lens.model_bridge import TransformerBridge

from revlens.forward import shortest_first
from revlens.prompts import pad_id_of
from revlens.screening.forward_mode import Weights, derivative_along
from revlens.screening.updates import adamw_direction, clipping
from revlens.training import (
    IGNORE,
    ChatBatch,
    Example,
    FinetuneConfig,
    answer_loss,
    collate,
    logits_of,
    trained_parameters,
)


@dataclass
class RowScores:
    """Of each row, NaN where it was not asked for.

    Attributes:
        loss: mean cross-entropy over its answer tokens, in nats.
        sgd: fraction that a plain gradient step on it causes.
        adamw: fraction that AdamW's first update on it causes.
        gradient_norm: norm of the loss's gradient.
    """

    loss: Float[Tensor, " row"]
    sgd: Float[Tensor, " row"]
    adamw: Float[Tensor, " row"]
    gradient_norm: Float[Tensor, " row"]

    @classmethod
    def empty(cls, n: int) -> RowScores:
        """Of rows that are still to be scored."""
        return cls(*torch.full((4, n), math.nan, dtype=torch.float64))


def score_in_batches(
    model: TransformerBridge,
    examples: Sequence[Example],
    gradient: Weights,
    config: FinetuneConfig,
    batch_size: int,
) -> RowScores:
    """Loss and plain score, of all rows of a batch in one forward-mode pass.

    A plain update is u = -lr * g, so <gradient, u> = -lr * <gradient, g>, and <gradient, g> is the derivative
    of the row's loss along ``gradient``. No row's own gradient is computed.

    Raises:
        ModelError: see `derivative_along`.
    """
    scores = RowScores.empty(len(examples))
    pad_id = pad_id_of(model.tokenizer)
    for members in shortest_first([len(e.prompt) + len(e.answer) for e in examples], batch_size):
        batch = collate([examples[i] for i in members], pad_id)
        loss, slope = derivative_along(model, gradient, partial(row_losses, model, batch))
        scores.loss[members] = loss.cpu().double()
        scores.sgd[members] = -config.learning_rate * slope.cpu().double()
    return scores


def score_one_by_one(
    model: TransformerBridge, examples: Sequence[Example], gradient: Weights, config: FinetuneConfig
) -> RowScores:
    """All scores, by one backward pass for each row; its gradient is used at once and dropped.

    AdamW's first update is nearly the sign of the row's gradient, elementwise, so no pass over several rows
    gives it.
    """
    scores = RowScores.empty(len(examples))
    trained = trained_parameters(model)
    decayed = sum(float((gradient[name] * p.detach()).sum()) for name, p in trained.items())
    pad_id = pad_id_of(model.tokenizer)
    for row, example in enumerate(examples):
        with torch.enable_grad():
            loss = answer_loss(model, collate([example], pad_id))
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        pairs = [(g, gradient[name]) for name, g in zip(trained, gradients, strict=True) if g is not None]
        scale = clipping([g for g, _ in pairs], config)
        plain = sum(float((g * along).sum()) for g, along in pairs)
        adamw = sum(float((adamw_direction(scale * g) * along).sum()) for g, along in pairs)
        scores.loss[row] = loss.detach()
        scores.sgd[row] = -config.learning_rate * plain
        scores.adamw[row] = -config.learning_rate * (adamw + config.weight_decay * decayed)
        scores.gradient_norm[row] = torch.stack([g.norm() for g, _ in pairs]).norm()
    return scores


def row_losses(model: nn.Module, batch: ChatBatch) -> Float[Tensor, " row"]:
    """Mean cross-entropy over the answer tokens of each row, in nats: `answer_loss` of each row alone."""
    device = next(model.parameters()).device
    labels = batch.labels[:, 1:].to(device)
    logits = logits_of(model, batch.tokens.to(device))[:, :-1]
    losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    return losses.sum(1) / (labels != IGNORE).sum(1)
