from __future__ import annotations

import inspect

import pytest
import torch

import revlens.activations
from revlens import forward
from revlens.errors import SiteError
from revlens.forward.positions import pool


def test_padding_on_either_side_changes_nothing() -> None:
    row = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    junk = torch.full((1, 2, 4), 100.0)
    for padded, mask in (
        (torch.cat([junk, row], dim=1), [[0, 0, 1, 1, 1]]),
        (torch.cat([row, junk], dim=1), [[1, 1, 1, 0, 0]]),
    ):
        torch.testing.assert_close(pool(padded, torch.tensor(mask), "last"), row[:, -1], rtol=0, atol=0)
        torch.testing.assert_close(pool(padded, torch.tensor(mask), "mean"), row.mean(1))


def test_a_mean_of_half_precision_is_in_float32() -> None:
    assert (
        pool(torch.ones(1, 2, 3).bfloat16(), torch.ones(1, 2, dtype=torch.long), "mean").dtype
        == torch.float32
    )


def test_an_unknown_policy_is_an_error() -> None:
    # Unwrapped, because the type checks of the test run would refuse it first.
    with pytest.raises(SiteError, match="'first'; expected one of last, mean"):
        inspect.unwrap(pool)(torch.zeros(1, 2, 3), torch.ones(1, 2), "first")


def test_users_find_the_policies_with_the_readers() -> None:
    assert revlens.activations.Positions is forward.Positions
    assert revlens.activations.POSITIONS == ("last", "mean")
