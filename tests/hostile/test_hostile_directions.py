"""v_rev files that hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hostile.payloads import BROKEN_SAFETENSORS, pickle_that_runs
from revlens.direction import ReversionDirection
from revlens.errors import ResultsError

UNIT = torch.eye(2, 4, dtype=torch.float64)
GAP = torch.tensor([1.0, 2.0], dtype=torch.float64)
META = {"layers": "0,2", "split": "direction", "n_prompts": "6"}


def stored(
    path: Path,
    unit: Tensor = UNIT,
    gap: Tensor = GAP,
    meta: dict[str, str] | None = META,
    names: tuple[str, str] = ("unit", "gap"),
) -> Path:
    save_file({names[0]: unit, names[1]: gap}, path, meta)
    return path


def test_the_file_that_these_tests_spoil_is_one(tmp_path: Path) -> None:
    v_rev = ReversionDirection.load(stored(tmp_path / "v_rev.safetensors"))
    assert torch.equal(v_rev.unit, UNIT)
    assert torch.equal(v_rev.gap, GAP)
    assert (v_rev.layers, v_rev.split, v_rev.n_prompts) == ((0, 2), "direction", 6)


@pytest.mark.parametrize("fault", BROKEN_SAFETENSORS)
def test_broken_safetensors_are_named(fault: str, tmp_path: Path) -> None:
    (tmp_path / "v_rev.safetensors").write_bytes(BROKEN_SAFETENSORS[fault])
    with pytest.raises(
        ResultsError, match=r"v_rev\.safetensors holds no v_rev that can be read .*locate it again"
    ):
        ReversionDirection.load(tmp_path / "v_rev.safetensors")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no v_rev that can be read"):
        ReversionDirection.load(pickle_that_runs(tmp_path / "v_rev.safetensors", tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "meta",
    [
        None, {}, META | {"layers": ""}, META | {"layers": "0,x"}, META | {"layers": "0"},
        META | {"layers": "0,1,2"}, META | {"layers": "2,0"}, META | {"layers": "1,1"},
        META | {"layers": "9" * 5000}, META | {"n_prompts": "many"}, META | {"n_prompts": "0"},
        META | {"n_prompts": "-3"}, {"layers": "0,2", "split": "direction"},
        {"layers": "0,2", "n_prompts": "6"},
    ],
    ids=str,
)  # fmt: skip
def test_metadata_that_does_not_fit_is_an_error(meta: dict[str, str] | None, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"holds no v_rev.*locate it again"):
        ReversionDirection.load(stored(tmp_path / "v_rev.safetensors", meta=meta))


@pytest.mark.parametrize(
    ("unit", "gap"),
    [
        (UNIT * 2, GAP), (UNIT * 0, GAP), (UNIT * torch.nan, GAP), (UNIT[0], GAP), (UNIT[None], GAP),
        (UNIT[:1], GAP), (UNIT.long(), GAP), (UNIT, -GAP), (UNIT, GAP * 0), (UNIT, GAP * torch.nan),
        (UNIT, GAP * torch.inf), (UNIT, GAP[:1]), (UNIT, GAP[:, None]), (UNIT, GAP.long()),
        (UNIT.to(torch.complex64), GAP), (torch.empty(0, 4), torch.empty(0)), (torch.empty(2, 0), GAP),
    ],
)  # fmt: skip
def test_vectors_that_are_no_directions_are_an_error(unit: Tensor, gap: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"holds no v_rev.*locate it again"):
        ReversionDirection.load(stored(tmp_path / "v_rev.safetensors", unit.contiguous(), gap.contiguous()))


def test_tensors_of_other_names_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no v_rev"):
        ReversionDirection.load(stored(tmp_path / "v_rev.safetensors", names=("v", "gap")))
