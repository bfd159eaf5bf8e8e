from __future__ import annotations

import pytest
import torch

from revlens.forward.rounding import deviation


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_last_digits_are_rounding_and_half_of_the_digits_are_not(dtype: torch.dtype) -> None:
    whole = torch.tensor([[1.0, -8.0], [0.5, 0.0]], dtype=dtype)
    eps = torch.finfo(dtype).eps
    assert deviation(whole, whole) == (0.0, 8 * eps**0.5)
    assert deviation(whole + 4 * eps, whole).is_rounding
    assert not deviation(whole + 16 * eps**0.5, whole).is_rounding


def test_nan_is_not_rounding() -> None:
    whole = torch.ones(3)
    for short, other in ((whole * torch.nan, whole), (whole, whole * torch.nan)):
        assert not deviation(short, other).is_rounding
