"""The loss of chat fine-tuning: cross-entropy on the answers."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from revlens.training.chat_data import IGNORE, ChatBatch
from revlens.training.streams import logits_of


def answer_loss(model: nn.Module, batch: ChatBatch) -> Float[Tensor, ""]:
    """Mean cross-entropy over answer tokens, in nats."""
    device = next(model.parameters()).device
    logits = logits_of(model, batch.tokens.to(device))
    return cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten().to(device), ignore_index=IGNORE
    )
