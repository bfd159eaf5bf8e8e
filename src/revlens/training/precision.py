"""Guards and monitors compute in the precision of the weights, whatever precision the task is trained in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def weights_precision(model: nn.Module) -> Iterator[None]:
    """Switch autocast off until the context closes, also where accelerate has built it into the model.

    A guard's start is read before a Trainer prepares the model for mixed precision. Later reads in the same
    precision make the drift of a model that has not moved exactly zero.
    """
    with ExitStack() as stack:
        for device in {"cpu", next(model.parameters()).device.type}:
            stack.enter_context(torch.autocast(device, enabled=False))
        # accelerate keeps the forward pass that it wraps in autocast under this name.
        unwrapped = vars(model).get("_original_forward")
        if unwrapped is not None:
            stack.callback(setattr, model, "forward", model.forward)
            model.forward = unwrapped
        yield
