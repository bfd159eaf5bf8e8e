from __future__ import annotations

import numpy as np
import pytest
import torch

from revlens.activations.moments import Moments, RunningMoments
from revlens.errors import ProbeError


def adversarial(n: int, width: int) -> torch.Tensor:
    """Spread of order one about means of up to 1e7: sums of raw squares would lose half of the digits."""
    generator = torch.Generator().manual_seed(0)
    mean = 10.0 ** torch.linspace(0, 7, width, dtype=torch.float64)
    return (
        mean
        + torch.randn(n, width, generator=generator, dtype=torch.float64)
        @ torch.randn(width, width, generator=generator).double()
    )


def in_pieces(values: torch.Tensor, cuts: list[int], *, covariance: bool) -> RunningMoments:
    running = RunningMoments.empty(values.shape[1], covariance=covariance)
    for piece in torch.tensor_split(values, cuts):
        running.update(piece)
    return running


@pytest.mark.parametrize("cuts", [[], [1], [0, 1, 1, 500], list(range(1, 600))])
def test_moments_are_numpys_in_whatever_pieces(cuts: list[int]) -> None:
    values = adversarial(600, 6)
    found = Moments.of({3: in_pieces(values, cuts, covariance=True)})
    exact = values.numpy().astype(np.longdouble)
    centred = exact - exact.mean(0)
    expected = torch.from_numpy((centred.T @ centred / 599).astype(np.float64))
    assert found.layers == (3,)
    assert found.count == 600
    torch.testing.assert_close(
        found.mean[0], torch.from_numpy(exact.mean(0).astype(np.float64)), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(found.covariance[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance[0], expected.diagonal(), rtol=1e-6, atol=1e-6)
    diagonal = Moments.of({3: in_pieces(values, cuts, covariance=False)})
    torch.testing.assert_close(diagonal.variance, found.variance, rtol=1e-6, atol=1e-6)


def test_float32_vectors_are_added_up_in_float64() -> None:
    values = torch.cat([torch.full((100_000, 1), 1.0), torch.full((100_000, 1), 1.0 + 2**-20)])
    running = in_pieces(values, list(range(0, 200_000, 1000)), covariance=False)
    assert float(running.mean) == pytest.approx(1 + 2**-21, rel=1e-14)
    assert float(running.scatter) == pytest.approx(200_000 * 2.0**-42, rel=1e-6)


@pytest.mark.parametrize("covariance", [False, True])
def test_merging_is_having_seen_both(covariance: bool) -> None:
    values = adversarial(50, 4)
    whole = in_pieces(values, [], covariance=covariance)
    for cut in (0, 1, 20, 50):
        one, two = (in_pieces(part, [], covariance=covariance) for part in (values[:cut], values[cut:]))
        one.merge(two)
        assert one.count == 50
        torch.testing.assert_close(one.mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(one.scatter, whole.scatter, rtol=1e-6, atol=1e-6)


def test_a_vector_added_many_times_counts_as_many() -> None:
    values, others = adversarial(5, 3), adversarial(9, 3)[5:]
    weighted = in_pieces(others, [], covariance=True)
    weighted.update(values, times=7)
    repeated = in_pieces(torch.cat([others, values.repeat(7, 1)]), [], covariance=True)
    assert weighted.count == repeated.count
    torch.testing.assert_close(weighted.scatter, repeated.scatter, rtol=1e-6, atol=1e-6)


def test_what_was_not_kept_or_cannot_be_known_is_an_error() -> None:
    diagonal = Moments.of({0: in_pieces(adversarial(3, 2), [], covariance=False)})
    with pytest.raises(ProbeError, match="again with covariance=True"):
        _ = diagonal.covariance
    with pytest.raises(ProbeError, match="two vectors or more; these are the moments of 1"):
        _ = Moments.of({0: in_pieces(adversarial(1, 2), [], covariance=True)}).variance
