"""Batches of refusals that a guard trains on beside the task, and how many it has drawn."""

from __future__ import annotations

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import GuardError
from revlens.training.chat_data import ChatBatch, batches
from revlens.training.model_parts import tokenizer_of


class RefusalBatches:
    """Endless batches of refusals in an order that the seed fixes.

    Args:
        model: what is trained.
        refusals: columns ``prompt`` and ``answer``.
        rows: of a batch; all refusals if there are fewer.
        seed: fixes their order.
        tokenizer: of a Hugging Face model; a bridge has its own.
    """

    def __init__(
        self,
        model: nn.Module,
        refusals: Dataset,
        *,
        rows: int,
        seed: int,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.drawn = 0
        self._stream = batches(
            tokenizer_of(model, tokenizer),
            refusals,
            batch_size=min(rows, len(refusals)),
            seed=seed,
            model=model,
        )

    def next(self) -> ChatBatch:
        """The next batch."""
        self.drawn += 1
        return next(self._stream)

    def skip_to(self, drawn: int) -> None:
        """Draw and drop batches until ``drawn`` have been drawn."""
        while self.drawn < drawn:
            self.next()


def check_refusals(refusals: Dataset) -> None:
    """Check that there are refusals to train on.

    Raises:
        GuardError: if there are none.
    """
    if len(refusals) == 0:
        raise GuardError("No refusals to train on; give rows of harmful prompts with refusals as answers.")
