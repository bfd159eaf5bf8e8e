"""Lisa: takes turns between refusals and the task, each held near where the other left off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError
from revlens.training.answer_loss import answer_loss
from revlens.training.guard import Guard
from revlens.training.objectives.l2sp import L2SP
from revlens.training.objectives.refusal_batches import RefusalBatches, check_refusals
from revlens.training.state import State, matched, named_within, part_of
from revlens.training.token_gradients import fused_log_p, logits_in, weighed_token_gradients


@dataclass
class Lisa(Guard):
    """Some updates on refusals alone, then some on the task alone, and so on, each with a proximal term.

    The term is strength / 2 * ||theta - theta_s||^2, with theta_s the weights at the last switch (Huang et
    al. 2024, arXiv 2405.18641; one update in ten on refusals, as in their main setting of 100 and 900).
    Both kinds of turn share one optimizer, as in the paper.

    At an update on refusals the task's batch passes through the model, and its gradient is set to zero where
    it leaves the logits, so a loss that passes them by, such as a router's for load balance, remains.

    Attributes:
        refusals: columns ``prompt`` (harmful requests) and ``answer`` (refusals); no probe may be among them.
        strength: of the proximal term, in nats per squared weight unit.
        seed: fixes the order of the refusals.
        on_refusals: updates in a turn on refusals, which comes first.
        on_task: updates in a turn on the task.
        rows: refusals per update on them.
        tokenizer: of a Hugging Face model; a bridge has its own.

    Raises:
        ConfigError: if a turn is not of at least one update.
        GuardError: if there are no refusals.
    """

    refusals: Dataset
    strength: float
    seed: int
    on_refusals: int = 1
    on_task: int = 9
    rows: int = 8
    tokenizer: PreTrainedTokenizerBase | None = None
    _batches: RefusalBatches | None = field(default=None, init=False, repr=False)
    _proximal: L2SP | None = field(default=None, init=False, repr=False)
    _done: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.on_refusals < 1 or self.on_task < 1:
            raise ConfigError(
                f"on_refusals={self.on_refusals} and on_task={self.on_task} must be at least 1 update."
            )
        check_refusals(self.refusals)

    def is_for_every_update(self) -> bool:
        return True

    def begin(self, model: nn.Module) -> None:
        """Start with the first refusals, near the present weights."""
        self._done = 0
        self._proximal = L2SP.at(model, self.strength)
        self._batches = RefusalBatches(
            model, self.refusals, rows=self.rows, seed=self.seed, tokenizer=self.tokenizer
        )

    def state_dict(self) -> dict[str, Tensor]:
        drawn = 0 if self._batches is None else self._batches.drawn
        start = {} if self._proximal is None else named_within("proximal", self._proximal.state_dict())
        return {"done": torch.tensor(self._done), "drawn": torch.tensor(drawn), **start}

    def load_state_dict(self, state: State) -> None:
        assert self._batches is not None, "begin comes first"
        assert self._proximal is not None, "begin comes first"
        saved = matched(self, state)
        self._done = int(saved["done"])
        self._batches.skip_to(int(saved["drawn"]))
        self._proximal.load_state_dict(part_of(saved, "proximal"))

    @property
    def _place(self) -> int:
        """How many updates of the present pair of turns are done."""
        return self._done % (self.on_refusals + self.on_task)

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        return weighed_token_gradients(model, _nothing) if self._place < self.on_refusals else nullcontext()

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        if self._batches is None:
            self.begin(model)
        assert self._batches is not None
        assert self._proximal is not None
        held = self._proximal.term(model)
        return held + answer_loss(model, self._batches.next()) if self._place < self.on_refusals else held

    def after_update(self, model: nn.Module) -> None:
        """Count, and at a switch remember the weights."""
        self._done += 1
        if self._place in (0, self.on_refusals):
            self._proximal = L2SP.at(model, self.strength)


def _nothing(args: tuple[Any, ...], kwargs: Any, output: Any) -> Float[Tensor, "batch next"]:
    """A weight of zero for every next token."""
    log_p = fused_log_p(output)
    return torch.zeros_like(logits_in(output)[:, 1:, 0] if log_p is None else log_p)
