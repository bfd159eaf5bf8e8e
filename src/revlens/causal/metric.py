"""A metric of the first answer token: one number per prompt from the logits at its last token."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from revlens.errors import ConfigError

#: From logits to numbers. Rows come in any order and number; a value depends on its own row alone.
Metric = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]


def measure(metric: Metric, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
    """The metric as float32 on the CPU.

    Raises:
        ConfigError: if it does not give one number per row.
    """
    values = metric(logits)
    if values.shape != logits.shape[:1]:
        raise ConfigError(
            f"The metric must map logits {tuple(logits.shape)} to one number per row, "
            f"got shape {tuple(values.shape)}."
        )
    return values.float().cpu()
