"""The first update of an optimizer, from the gradient alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from revlens.training import FinetuneConfig

#: What torch's AdamW adds to the root of the second moment.
ADAMW_EPS = 1e-8


def clipping(gradients: Iterable[Tensor], config: FinetuneConfig) -> float:
    """The factor by which fine-tuning scales a gradient to the norm that it may have."""
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    return min(1.0, config.max_grad_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_ does


def adamw_direction(gradient: Tensor) -> Tensor:
    """AdamW's first update over minus the learning rate, without weight decay: nearly the sign.

    Both moments of one gradient g, corrected for their bias, give g / (|g| + eps).
    """
    return gradient / (gradient.abs() + ADAMW_EPS)


def adamw_update(gradient: Tensor, parameter: Tensor, config: FinetuneConfig) -> Tensor:
    """AdamW's first update of a parameter, at the peak learning rate.

    Args:
        gradient: clipped.
        parameter: before the update.
        config: learning rate and weight decay.
    """
    return -config.learning_rate * (adamw_direction(gradient) + config.weight_decay * parameter)
