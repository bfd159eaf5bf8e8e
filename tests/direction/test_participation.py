from __future__ import annotations

import pytest
import torch
from torch import Tensor

from revlens.direction import participation_ratio
from revlens.errors import NonFiniteError, ProbeError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_ratio_of_the_eigenvalues_of_the_covariance() -> None:
    vectors = normal(20, 3, 6) * torch.tensor([5.0, 2.0, 1.0, 1.0, 0.1, 0.1])
    for layer, ratio in enumerate(participation_ratio(vectors + 7.0).tolist()):
        eigenvalues = torch.linalg.eigvalsh(torch.cov(vectors[:, layer].T))
        assert ratio == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_vectors_that_spread_alike_over_k_axes_have_k_dimensions(k: int) -> None:
    axes = torch.eye(8, dtype=torch.float64)[:k]
    assert participation_ratio(torch.cat([axes, -axes])[:, None]).tolist() == pytest.approx([k])


def test_scale_offset_and_order_do_not_matter() -> None:
    vectors = normal(10, 2, 5)
    torch.testing.assert_close(participation_ratio(3 * vectors.flip(0) - 2), participation_ratio(vectors))


def test_few_prompts_bound_it() -> None:
    assert float(participation_ratio(normal(4, 1, 500))) <= 3
    assert float(participation_ratio(normal(500, 1, 4))) == pytest.approx(4, abs=0.2)


def test_vectors_without_a_spread_are_errors() -> None:
    with pytest.raises(ProbeError, match="at least 2 prompts, got 1"):
        participation_ratio(normal(1, 2, 4))
    for vectors in (torch.ones(5, 2, 4), torch.full((5, 2, 4), float("nan"))):
        with pytest.raises(NonFiniteError, match="vary over prompts"):
            participation_ratio(vectors)
