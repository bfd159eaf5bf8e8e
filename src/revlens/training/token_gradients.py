"""Weigh the gradient of the task's loss token by token, whoever computes the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.training.model_parts import unembedding

#: From a pass's arguments, by position and by name, and its output: a weight for the prediction of each next
#: token.
Weigh = Callable[[tuple[Any, ...], Mapping[str, Any], Any], Float[Tensor, "batch next"]]


@contextmanager
def weighed_token_gradients(model: nn.Module, weigh: Weigh) -> Iterator[None]:
    """Multiply the gradient of the loss at the prediction of each next token, until the context closes.

    A loss that is a sum over tokens, as cross-entropy is, then has the gradient of the weighted sum, though
    its value stays as it is. A Trainer computes its loss itself, and often within the model's own pass, so
    the gradient is caught where it enters the unembedding; or, of TRL's fused heads, at the log-probabilities
    that they return. Losses that pass by both, such as a router's for load balance, stay as they are.

    Args:
        model: a bridge or a Hugging Face model.
        weigh: called at the end of each pass with a gradient.

    Raises:
        GuardError: if there is no unembedding; at the end of a pass in which it did not run as a module, as
            with fused losses other than TRL's; in the backward pass, if it ran outside of a model's pass.
    """
    head = unembedding(model)
    latest: list[_Weights] = []

    def catch(module: nn.Module, args: object, output: Tensor) -> None:
        if output.requires_grad:
            latest[:] = [_Weights()]
            output.register_hook(latest[0].of_logits)

    def set_weights(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        fused = fused_log_p(output)
        if fused is not None and fused.requires_grad:
            latest[:] = [_Weights()]
            fused.register_hook(latest[0].of_log_p)
        if not latest:
            raise GuardError(
                "The task's loss is computed without logits, by a fused or chunked loss that revlens does "
                "not know, or in compiled code, so gradients of single tokens cannot be weighed. Switch that "
                "off (for instance use_liger_kernel=False, torch_compile=False), or use another guard."
            )
        latest.pop().weights = weigh(args, kwargs, output)

    hooks = [
        head.register_forward_hook(catch),
        model.register_forward_hook(set_weights, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def fused_log_p(output: Any) -> Float[Tensor, "batch next"] | None:
    """The log-probabilities of the next tokens that TRL's fused heads return in place of logits."""
    return getattr(output, "log_probs", None)


def logits_in(output: Any) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits that a bridge or a Hugging Face model returns."""
    return output if isinstance(output, Tensor) else output.logits


class _Weights:
    """The weights of one pass, which are known when it ends, and used in its backward pass."""

    weights: Float[Tensor, "batch next"] | None = None

    def of_log_p(self, gradient: Float[Tensor, "batch next"]) -> Float[Tensor, "batch next"]:
        if self.weights is None:
            raise GuardError(
                "The unembedding ran outside of a pass of the model, so its gradient cannot be weighed by "
                "token; use another guard."
            )
        return gradient * self.weights.to(gradient.device, gradient.dtype)

    def of_logits(self, gradient: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
        by_token = self.of_log_p(torch.ones_like(gradient[:, 1:, 0]))
        # The last position predicts no token of the batch.
        return torch.cat([gradient[:, :-1] * by_token[..., None], gradient[:, -1:]], dim=1)
