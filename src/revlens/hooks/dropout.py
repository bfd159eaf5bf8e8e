"""Dropout, which would pass for an effect: reads and replies of a model are without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from revlens.hooks.bridges import modules_of


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, until the context closes and every module returns to its own mode."""
    active = [module for module in modules_of(model) if module.training]
    try:
        for module in active:
            module.training = False
        yield
    finally:
        for module in active:
            module.training = True
