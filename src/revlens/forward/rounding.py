"""Whether a short pass (on cached keys and values, say) gives the numbers of the whole one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Deviation(NamedTuple):
    """How far the numbers of a short pass are from those of the whole one.

    Attributes:
        largest: the largest absolute difference; NaN if an entry is NaN.
        tolerance: what still counts as rounding.
    """

    largest: float
    tolerance: float

    @property
    def is_rounding(self) -> bool:
        """Whether the two are equal up to rounding."""
        return self.largest <= self.tolerance  # false for NaN


def deviation(short: Float[Tensor, "*shape"], whole: Float[Tensor, "*shape"]) -> Deviation:
    """Compare a short pass with the whole one.

    The tolerance is half the digits of the dtype, relative to the largest entry: far more than rounding, far
    less than what a wrong mask or position does.
    """
    tolerance = torch.finfo(whole.dtype).eps ** 0.5 * float(whole.abs().max())
    return Deviation(float((short - whole).abs().max()), tolerance)
