"""Optimizer and schedule of a fine-tune."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revlens.errors import ConfigError


@dataclass(frozen=True)
class FinetuneConfig:
    """Optimizer (AdamW) and schedule of one fine-tune.

    Attributes:
        steps: optimizer updates.
        learning_rate: at its peak.
        batch_size: rows per update.
        warmup_steps: linear warm-up to the peak.
        decay: whether the rate then falls to zero along a cosine, or stays at the peak.
        weight_decay: AdamW's.
        max_grad_norm: the global norm to which gradients are clipped.
        sort_window: how many batches have their rows sorted by length together, to save padding; 1 keeps the
            random order.
        micro_batch_size: rows per forward pass, to save memory; all at once if None. The update is that of
            the whole batch.

    Raises:
        ConfigError: if a value is out of range.
    """

    steps: int
    learning_rate: float
    batch_size: int = 32
    warmup_steps: int = 0
    decay: bool = False
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    sort_window: int = 1
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "batch_size", "max_grad_norm", "sort_window"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay={self.weight_decay} must be at least 0.")
        if self.micro_batch_size is not None and not 1 <= self.micro_batch_size <= self.batch_size:
            raise ConfigError(
                f"micro_batch_size={self.micro_batch_size} must lie between 1 and "
                f"batch_size={self.batch_size}."
            )
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(f"warmup_steps={self.warmup_steps} must lie between 0 and steps={self.steps}.")

    def rate_at(self, update: int) -> float:
        """Learning rate of an update, counted from 0, as a share of the peak."""
        if update < self.warmup_steps:
            return (update + 1) / self.warmup_steps
        if not self.decay:
            return 1.0
        progress = (update - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))
