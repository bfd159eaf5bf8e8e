"""The token-weighted constrained loss: it holds an answer's first tokens near the aligned model's odds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.forward import is_sharded
from revlens.hooks import without_dropout
from revlens.training.guard import Guard, copied, trained_alike, trained_parameters
from revlens.training.model_parts import other_weights
from revlens.training.state import State, matched, named_within, part_of
from revlens.training.task_tokens import answer_tokens
from revlens.training.token_gradients import fused_log_p, logits_in, weighed_token_gradients

#: beta at an answer's first five tokens, and at all others: section 4.1 of the paper.
_FIRST = (0.5, 2.0, 2.0, 2.0, 2.0)
_OTHERS = 0.1


@dataclass
class ConstrainedLoss(Guard):
    """The task's loss becomes - mean over answer tokens of 2 / b_t * log sigmoid(b_t * (log p - log p_0)).

    p is the probability of answer token t under the model, p_0 that under the aligned one. b_t is strength
    times 0.5 at the first token of an answer, 2 at the next four and 0.1 at all others: the larger it is, the
    sooner the loss stops raising a token's probability (Qi et al. 2024, arXiv 2406.05946, section 4).

    Its gradient is that of cross-entropy with a weight for each token, 2 sigmoid(b_t * (log p_0 - log p)).
    So this guard weighs the gradient of the cross-entropy that the loop or a Trainer computes; the loss that
    they report stays the task's. The weights are 1 at the aligned model: there the gradients are the same.

    Each pass of the task has one more without gradients, with the aligned model's weights.

    Attributes:
        start: the aligned model's trained weights, by name.
        strength: multiple of the paper's b_t.
    """

    start: Mapping[str, Tensor] = field(repr=False)
    strength: float

    @classmethod
    def at(cls, aligned: nn.Module, strength: float) -> ConstrainedLoss:
        """Constrain to a model, about to be trained, whose trained weights are copied.

        Raises:
            GuardError: if no parameter requires gradients.
        """
        return cls(copied(trained_parameters(aligned), "there is no task's loss to constrain"), strength)

    def state_dict(self) -> dict[str, Tensor]:
        return named_within("start", self.start)

    def load_state_dict(self, state: State) -> None:
        self.start = part_of(matched(self, state), "start")

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        """Weigh the gradients of answer tokens.

        Raises:
            GuardError: if the model trains other parameters, or its weights are sharded; in a pass, see
                `revlens.training.token_gradients` and `revlens.training.task_tokens`.
        """
        if is_sharded(model):
            raise GuardError("ConstrainedLoss runs the aligned model's whole weights; use DDP, not FSDP2.")
        trained = trained_alike(model, self.start, "ConstrainedLoss")
        # A Trainer may have moved the model.
        self.start = {name: self.start[name].to(parameter.device) for name, parameter in trained.items()}

        def weigh(
            args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
        ) -> Float[Tensor, "batch next"]:
            with torch.no_grad(), without_dropout(model), other_weights(model, self.start):
                return self._weights(output, model(*args, **kwargs))

        return weighed_token_gradients(model, weigh)

    def _weights(self, output: Any, aligned: Any) -> Float[Tensor, "batch next"]:
        """2 sigmoid(b_t * (log p_0 - log p)) for each next token of an answer, and 1 for others."""
        labels, place = (tensor[:, 1:] for tensor in answer_tokens())
        log_p, log_p_0 = (_log_p(one, labels, place > 0) for one in (output, aligned))
        beta = self.strength * torch.tensor([*_FIRST, _OTHERS])[(place - 1).clamp(0, len(_FIRST))]
        weights = torch.ones(labels.shape, dtype=log_p.dtype, device=log_p.device)
        chosen = (place > 0).to(log_p.device)
        weights[chosen] = 2 * torch.sigmoid(beta.to(log_p)[chosen] * (log_p_0 - log_p))
        return weights


def _log_p(
    output: Any, labels: Int[Tensor, "batch next"], chosen: Bool[Tensor, "batch next"]
) -> Float[Tensor, " token"]:
    """Log-probabilities of the chosen labels, in float32 at least.

    Raises:
        GuardError: if the model has not one prediction for each token of the batch.
    """
    fused = fused_log_p(output)
    predicted = logits_in(output)[:, :-1] if fused is None else fused
    if predicted.shape[:2] != labels.shape:
        raise GuardError(
            f"The model predicts {tuple(predicted.shape[:2])} next tokens (batch x position), and the labels "
            f"are for {tuple(labels.shape)}. Pass the batch through the model whole and as labelled: no "
            "virtual tokens of prompt tuning (LoRA adds none), no torch.nn.DataParallel."
        )
    predicted = predicted.detach()[chosen.to(predicted.device)]
    wide = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    if fused is not None:
        return wide
    return wide.gather(-1, labels[chosen].to(wide.device)[:, None])[:, 0] - wide.logsumexp(-1)
