from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from revlens.activations import Activations
from revlens.direction import ReversionDirection, locate
from revlens.direction.locate import unit_vectors
from revlens.errors import HistoryError, NonFiniteError, ProbeError, ResultsError
from stores import store_of

LAYERS = (0, 2)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed)
    ).double()  # as a store of float32 keeps it


REFERENCE, ALIGNED = normal(6, 2, 5, seed=1), normal(6, 2, 5, seed=2)


def fit(reference: Tensor = REFERENCE, aligned: Tensor = ALIGNED) -> ReversionDirection:
    return ReversionDirection.fit(reference, aligned, layers=LAYERS, split="direction")


def store(root: Path, checkpoints: Mapping[str, Tensor], split: str = "direction") -> Activations:
    return store_of(root, {name: {split: values} for name, values in checkpoints.items()}, LAYERS)


def test_the_direction_is_the_unit_difference_of_means() -> None:
    """Layer 0: mean difference (3, 4), gap 5; layer 2: mean difference (0, -2), gap 2."""
    reference = torch.tensor([[[5.0, 4.0], [1.0, 0.0]], [[3.0, 6.0], [1.0, 0.0]]])
    aligned = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[1.0, 2.0], [2.0, 1.0]]])
    v_rev = fit(reference, aligned)
    torch.testing.assert_close(v_rev.unit, torch.tensor([[0.6, 0.8], [0.0, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(v_rev.gap, torch.tensor([5.0, 2.0], dtype=torch.float64))
    assert (v_rev.layers, v_rev.split, v_rev.n_prompts) == (LAYERS, "direction", 2)


def test_every_layer_has_norm_one_and_gap_times_unit_is_the_difference() -> None:
    v_rev = fit()
    torch.testing.assert_close(v_rev.unit.norm(dim=-1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(v_rev.gap[:, None] * v_rev.unit, (REFERENCE - ALIGNED).mean(0))


def test_rotating_the_residual_basis_rotates_the_direction_and_keeps_the_gap() -> None:
    rotation = torch.linalg.qr(normal(5, 5, seed=3)).Q
    v_rev, rotated = fit(), fit(REFERENCE @ rotation, ALIGNED @ rotation)
    torch.testing.assert_close(rotated.unit, v_rev.unit @ rotation)
    torch.testing.assert_close(rotated.gap, v_rev.gap)


def test_the_order_of_the_prompts_changes_nothing_even_between_checkpoints() -> None:
    v_rev, shuffled = fit(), fit(REFERENCE.flip(0), ALIGNED.roll(2, dims=0))
    torch.testing.assert_close(shuffled.unit, v_rev.unit)
    torch.testing.assert_close(shuffled.gap, v_rev.gap)


def test_scaling_the_activations_scales_the_gap_alone() -> None:
    v_rev, scaled = fit(), fit(10 * REFERENCE, 10 * ALIGNED)
    torch.testing.assert_close(scaled.unit, v_rev.unit)
    torch.testing.assert_close(scaled.gap, 10 * v_rev.gap)


def test_an_offset_common_to_both_checkpoints_changes_nothing() -> None:
    offset = normal(6, 2, 5, seed=4)
    torch.testing.assert_close(fit(REFERENCE + offset, ALIGNED + offset).unit, fit().unit)


def test_swapping_reference_and_aligned_flips_the_sign() -> None:
    assert torch.equal(fit(ALIGNED, REFERENCE).unit, -fit().unit)
    assert torch.equal(fit(ALIGNED, REFERENCE).gap, fit().gap)


def test_half_precision_is_averaged_in_double() -> None:
    """In float16, 2050 - 0.1 is 2050, and the sum of 4096 such values is infinite."""
    reference, aligned = torch.full((4096, 2, 1), 2050.0).half(), torch.full((4096, 2, 1), 0.1).half()
    assert fit(reference, aligned).gap.tolist() == [2050.0 - float(torch.tensor(0.1).half())] * 2


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    v_rev = fit()
    v_rev.save(tmp_path / "new" / "v_rev.safetensors")
    loaded = ReversionDirection.load(tmp_path / "new" / "v_rev.safetensors")
    assert torch.equal(loaded.unit, v_rev.unit)
    assert torch.equal(loaded.gap, v_rev.gap)
    assert (loaded.layers, loaded.split, loaded.n_prompts) == (LAYERS, "direction", 6)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["v_rev.safetensors"]


def test_loading_a_missing_file_says_to_locate_first(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"No v_rev at .*absent\.safetensors: locate it first"):
        ReversionDirection.load(tmp_path / "absent.safetensors")


def test_locate_equals_fit_on_the_stored_activations(tmp_path: Path) -> None:
    located = locate(
        store(tmp_path, {"reference": REFERENCE, "aligned": ALIGNED, "step-1": normal(6, 2, 5, seed=5)})
    )
    assert torch.equal(located.unit, fit().unit)
    assert torch.equal(located.gap, fit().gap)
    assert (located.layers, located.split, located.n_prompts) == (LAYERS, "direction", 6)


def test_locate_reads_the_split_it_is_given(tmp_path: Path) -> None:
    other = store(tmp_path, {"reference": ALIGNED, "aligned": REFERENCE}, split="guard")
    located = locate(other, "guard")
    assert located.split == "guard"
    assert torch.equal(located.unit, -fit().unit)


def test_what_was_not_captured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="'guard' was not captured; there are direction"):
        locate(store(tmp_path / "whole", {"reference": REFERENCE, "aligned": ALIGNED}), "guard")
    with pytest.raises(HistoryError, match="'reference' was not captured; there are aligned"):
        locate(store(tmp_path / "half", {"aligned": ALIGNED}))
    with pytest.raises(HistoryError, match="'aligned' was not captured; there are reference"):
        locate(store(tmp_path / "other half", {"reference": REFERENCE}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["reference", "aligned", "both"])
def test_one_value_that_is_not_finite_is_an_error_that_names_the_split(bad: float, side: str) -> None:
    broken = REFERENCE.clone()
    broken[3, 1, 2] = bad
    reference = REFERENCE if side == "aligned" else broken
    aligned = ALIGNED if side == "reference" else broken
    with pytest.raises(NonFiniteError, match="split 'direction' hold NaN or infinity"):
        fit(reference, aligned)


def test_equal_means_at_a_layer_are_an_error_that_names_the_layer() -> None:
    """Equal means of unequal prompts; the second layer of the axis is layer 2 of the model."""
    aligned = ALIGNED.clone()
    aligned[:, 1] = REFERENCE[:, 1]
    aligned[0, 1, 0], aligned[1, 1, 0] = REFERENCE[0, 1, 0] + 1, REFERENCE[1, 1, 0] - 1
    reference = torch.round(REFERENCE * 1024) / 1024  # so that the sums are exact
    with pytest.raises(NonFiniteError, match="equal mean activations at layer 2; v_rev is undefined"):
        fit(reference, torch.round(aligned * 1024) / 1024)


def test_unit_vectors_are_scaled_along_the_last_axis() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    torch.testing.assert_close(unit_vectors(vectors), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    torch.testing.assert_close(unit_vectors(vectors[0]), torch.tensor([0.6, 0.8]))
