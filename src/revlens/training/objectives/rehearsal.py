"""Safety rehearsal: trains on refusals beside the task."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError
from revlens.training.answer_loss import answer_loss
from revlens.training.guard import Guard
from revlens.training.objectives.refusal_batches import RefusalBatches, check_refusals
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
    _batches: RefusalBatches | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(f"share={self.share} of refusals must lie strictly between 0 and 1.")
        check_refusals(self.refusals)

    def begin(self, model: nn.Module) -> None:
        """Start with the first refusals."""
        self._batches = RefusalBatches(
            model, self.refusals, rows=self.rows, seed=self.seed, tokenizer=self.tokenizer
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {"drawn": torch.tensor(0 if self._batches is None else self._batches.drawn)}

    def load_state_dict(self, state: State) -> None:
        assert self._batches is not None, "begin comes first"
        self._batches.skip_to(int(matched(self, state)["drawn"]))

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        if self._batches is None:
            self.begin(model)
        assert self._batches is not None
        return self.share / (1 - self.share) * answer_loss(model, self._batches.next())
