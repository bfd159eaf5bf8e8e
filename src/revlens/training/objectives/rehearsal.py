"""Safety rehearsal: trains on refusals beside the task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError, GuardError
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import ChatBatch, batches
from revlens.training.guard import Guard
from revlens.training.model_parts import tokenizer_of
from revlens.training.state import State, matched


@dataclass
class Rehearsal(Guard):
    """share / (1 - share) * the answer loss on refusals.

    Up to a factor, task loss and term are the loss on a mixture of which refusals are that share. To mix
    safety examples into a fine-tune is from Bianchi et al. (2023, arXiv 2309.07875). Here they come in a
    batch of their own beside each task batch, so that the task's data and their order stay those of the other
    methods.

    Attributes:
        refusals: columns ``prompt`` (harmful requests) and ``answer`` (refusals); no probe may be among them.
        share: of refusals in the loss, strictly between 0 and 1.
        seed: fixes the order of the refusals.
        rows: refusals per update.
        tokenizer: of a Hugging Face model; a bridge has its own.

    Raises:
        ConfigError: if the share is not strictly between 0 and 1.
        GuardError: if there are no refusals.
    """

    refusals: Dataset
    share: float
    seed: int
    rows: int = 8
    tokenizer: PreTrainedTokenizerBase | None = None
    _stream: Iterator[ChatBatch] | None = field(default=None, init=False, repr=False)
    _drawn: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(f"share={self.share} of refusals must lie strictly between 0 and 1.")
        if len(self.refusals) == 0:
            raise GuardError(
                "No refusals to rehearse; give rows of harmful prompts with refusals as answers."
            )

    def begin(self, model: nn.Module) -> None:
        """Start with the first refusals."""
        tokenizer = tokenizer_of(model, self.tokenizer)
        self._stream = batches(
            tokenizer,
            self.refusals,
            batch_size=min(self.rows, len(self.refusals)),
            seed=self.seed,
            model=model,
        )
        self._drawn = 0

    def state_dict(self) -> dict[str, Tensor]:
        return {"drawn": torch.tensor(self._drawn)}

    def load_state_dict(self, state: State) -> None:
        drawn = int(matched(self, state)["drawn"])
        while self._drawn < drawn:
            self._next()

    def _next(self) -> ChatBatch:
        assert self._stream is not None, "begin comes first"
        self._drawn += 1
        return next(self._stream)

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        if self._stream is None:
            self.begin(model)
        return self.share / (1 - self.share) * answer_loss(model, self._next())
