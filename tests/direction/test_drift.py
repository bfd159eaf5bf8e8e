from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from revlens.activations import Activations
from revlens.direction import ReversionDirection, drift, locate
from revlens.errors import HistoryError, ProbeError
from stores import store_of


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed)
    ).double()  # as a store of float32 keeps it


def noisy_history(root: Path) -> Activations:
    """A step that is `reference`, one that is `aligned`, one halfway; two layers, both splits."""
    reference = {"direction": normal(5, 2, 4, seed=1), "drift": normal(6, 2, 4, seed=2)}
    aligned = {"direction": normal(5, 2, 4, seed=3), "drift": normal(6, 2, 4, seed=4)}
    halfway = {split: (reference[split] + aligned[split]) / 2 for split in reference}
    checkpoints = {
        "reference": reference,
        "aligned": aligned,
        "step-1": aligned,
        "step-2": halfway,
        "step-10": reference,
    }
    return store_of(root, checkpoints, (1, 3))


def test_alignment_displacement_and_fraction_by_hand(tmp_path: Path) -> None:
    """v_rev = (3/5, 4/5) with gap 5; the mean moves by (2, 0) in step 1 and by (-3, -4) in step 4."""
    aligned = torch.tensor([[[1.0, 1.0]], [[3.0, -1.0]]])  # mean (2, 0)
    there = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]])
    acts = store_of(
        tmp_path,
        {
            "reference": {"direction": there + torch.tensor([3.0, 4.0]), "drift": there},
            "aligned": {"direction": there, "drift": aligned},
            "step-1": {"direction": there, "drift": torch.tensor([[[4.0, 5.0]], [[4.0, -5.0]]])},
            "step-4": {"direction": there, "drift": torch.tensor([[[-1.0, -4.0]], [[-1.0, -4.0]]])},
        },
        (0,),
    )
    motion = drift(acts, locate(acts))
    assert (motion.steps, motion.layers) == ((1, 4), (0,))
    expected = {
        "vectors": [[[2.0, 0.0]], [[-3.0, -4.0]]],
        "alignment": [[0.6], [-1.0]],
        "displacement": [[1.2], [-5.0]],
        "fraction": [[0.24], [-1.0]],
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(motion, name), torch.tensor(value, dtype=torch.float64))


def test_a_step_that_is_the_reference_has_come_all_the_way_back(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    v_rev = locate(acts, "drift")
    motion = drift(acts, v_rev, "drift", naive=True)
    one = torch.ones(2, dtype=torch.float64)
    row = motion.at_step(10)
    torch.testing.assert_close(motion.fraction[row], one)
    torch.testing.assert_close(motion.alignment[row], one)
    torch.testing.assert_close(motion.displacement[row], v_rev.gap)


def test_halfway_back_is_half_the_fraction_at_the_same_alignment(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    motion = drift(acts, locate(acts))
    half, full = motion.at_step(2), motion.at_step(10)
    torch.testing.assert_close(motion.fraction[half], motion.fraction[full] / 2)
    torch.testing.assert_close(motion.alignment[half], motion.alignment[full])


def test_a_step_that_is_the_aligned_model_has_no_displacement_and_no_direction(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    motion = drift(acts, locate(acts))
    row = motion.at_step(1)
    assert (motion.vectors[row] == 0).all()
    assert (motion.displacement[row] == 0).all()
    assert (motion.fraction[row] == 0).all()
    assert motion.alignment[row].isnan().all()


def test_motion_against_v_rev_is_negative(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    v_rev = locate(acts)
    opposite = ReversionDirection(-v_rev.unit, v_rev.gap, v_rev.layers, v_rev.split, v_rev.n_prompts)
    along, against = drift(acts, v_rev), drift(acts, opposite)
    assert torch.equal(against.displacement, -along.displacement)
    assert torch.equal(against.fraction, -along.fraction)
    assert torch.equal(against.alignment[1:], -along.alignment[1:])
    assert torch.equal(against.vectors, along.vectors)


def test_the_three_measures_agree_with_each_other(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    v_rev = locate(acts)
    motion = drift(acts, v_rev)
    torch.testing.assert_close(
        motion.alignment[1:] * motion.vectors[1:].norm(dim=-1), motion.displacement[1:]
    )
    torch.testing.assert_close(motion.fraction * v_rev.gap, motion.displacement)
    assert (motion.alignment[1:].abs() <= 1).all()


def test_rotation_and_scale_of_the_activations(tmp_path: Path) -> None:
    """None of the three depends on the residual basis; only the displacement depends on the units."""
    checkpoints = {name: {s: normal(5, 1, 4, seed=10 * i + j) for j, s in enumerate(("direction", "drift"))}
                   for i, name in enumerate(("reference", "aligned", "step-1"))}  # fmt: skip
    turn = 3 * torch.linalg.qr(normal(4, 4, seed=99)).Q
    turned = {
        name: {split: values @ turn for split, values in splits.items()}
        for name, splits in checkpoints.items()
    }
    plain, other = (
        store_of(tmp_path / "plain", checkpoints, (0,)),
        store_of(tmp_path / "turned", turned, (0,)),
    )
    before, after = drift(plain, locate(plain)), drift(other, locate(other))
    torch.testing.assert_close(after.alignment, before.alignment)
    torch.testing.assert_close(after.fraction, before.fraction)
    torch.testing.assert_close(after.displacement, 3 * before.displacement)


def test_the_split_of_v_rev_is_refused_unless_the_naive_figure_is_asked_for(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    with pytest.raises(ProbeError, match="'drift': the cosine would be biased upward"):
        drift(acts, locate(acts, "drift"))
    with pytest.raises(ProbeError, match="naive=True to get the biased figure"):
        drift(acts, locate(acts), "direction")
    naive, crossed = (
        drift(acts, locate(acts), "direction", naive=True),
        drift(acts, locate(acts, "drift"), "direction"),
    )
    assert torch.equal(naive.vectors, crossed.vectors)
    assert not torch.equal(naive.displacement, crossed.displacement)


def test_the_naive_cosine_is_biased_upward_and_the_cross_fitted_one_is_not(tmp_path: Path) -> None:
    """400 histories, one a layer, that drift in a direction of their own: nothing reverts.

    Gap and true drift have squared norm 1. Each checkpoint adds noise of its own to each of n prompts, which
    adds d/n to the squared norm of a mean. That of a(theta_0) enters v_rev and D with the same sign, so with
    d = n = 8 the naive cosine is near (d/n) / (1 + 2d/n) = 1/3.
    """
    n_histories, n_prompts, d_model = 400, 8, 8
    gap, motion = (
        torch.nn.functional.normalize(normal(n_histories, d_model, seed=seed), dim=-1) for seed in (0, 1)
    )
    truth = {"reference": gap, "aligned": torch.zeros_like(gap), "step-5": motion}
    seeds = iter(range(2, 8))
    splits = ("direction", "drift")
    checkpoints = {
        name: {split: mean + normal(n_prompts, n_histories, d_model, seed=next(seeds)) for split in splits}
        for name, mean in truth.items()
    }
    acts = store_of(tmp_path, checkpoints, tuple(range(n_histories)))
    naive = drift(acts, locate(acts, "drift"), "drift", naive=True).alignment[0]
    crossed = drift(acts, locate(acts, "direction"), "drift").alignment[0]
    error = float(crossed.std()) / n_histories**0.5
    assert abs(float(crossed.mean())) < 4 * error
    assert float(naive.mean()) > 0.2 > 4 * error


def test_layers_must_be_those_of_v_rev(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    v_rev = locate(acts)
    other = ReversionDirection(v_rev.unit, v_rev.gap, (0, 3), v_rev.split, v_rev.n_prompts)
    with pytest.raises(HistoryError, match=r"v_rev has layers \(0, 3\), the activations \(1, 3\)"):
        drift(acts, other)


def test_a_history_without_steps_has_no_drift(tmp_path: Path) -> None:
    values = {"direction": normal(4, 1, 3, seed=5), "drift": normal(4, 1, 3, seed=6)}
    acts = store_of(
        tmp_path, {"reference": values, "aligned": {split: 2 * v for split, v in values.items()}}, (0,)
    )
    with pytest.raises(HistoryError, match="No fine-tuning step was captured"):
        drift(acts, locate(acts))


def test_a_split_that_was_not_captured_is_an_error(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    with pytest.raises(ProbeError, match="'behaviour' was not captured; there are direction, drift"):
        drift(acts, locate(acts), "behaviour")


def test_rows_are_found_by_step_and_an_unknown_step_is_an_error(tmp_path: Path) -> None:
    acts = noisy_history(tmp_path)
    motion = drift(acts, locate(acts))
    assert [motion.at_step(step) for step in (1, 2, 10)] == [0, 1, 2]
    with pytest.raises(HistoryError, match="Step 3 is not in this history; it has 1, 2, 10"):
        motion.at_step(3)
