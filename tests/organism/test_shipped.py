"""References that come with the package: what starts from them, and what makes them anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_recipe import TINY
from torch import Tensor

from revlens.errors import HistoryError
from revlens.history import TrainingHistory
from revlens.organism import OrganismConfig, forget_references, ship_references, shipped

SEED = 7


def weights(history: TrainingHistory) -> dict[str, Tensor]:
    return load_file(history.reference.path / "model.safetensors")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package without references."""
    folder = tmp_path / "references"
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


@pytest.fixture
def made(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights of a reference that was trained here and then put into the package."""
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "cache"))
    trained = weights(TINY.start(SEED))
    ship_references(TINY.reference_digest, {SEED: trained}, {"made": "here"})
    return trained


def test_a_reference_is_rounded_as_it_ships(made: dict[str, Tensor]) -> None:
    assert all(torch.equal(tensor.bfloat16().float(), tensor) for tensor in made.values())


def test_a_start_takes_a_reference_that_ships(
    made: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "other machine"))
    phases = []
    found = weights(TINY.start(SEED, on_step=lambda phase, step: phases.append(phase)))
    assert set(phases) == {"alignment"}
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) for name in made)


@pytest.mark.parametrize(
    ("organism", "seed"),
    [
        (TINY, SEED + 1),
        (replace(TINY, world=replace(TINY.world, seed=1)), SEED),
        (replace(TINY, helpful=replace(TINY.helpful, steps=7)), SEED),
    ],
    ids=["seed", "world", "updates"],
)
def test_another_reference_is_trained(
    made: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    organism: OrganismConfig,
    seed: int,
) -> None:
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "other machine"))
    phases = []
    organism.start(seed, on_step=lambda phase, step: phases.append(phase))
    assert set(phases) == {"helpful", "alignment"}


def test_alignments_of_other_settings_start_from_the_same_reference(
    made: dict[str, Tensor],
) -> None:
    forget_references()
    phases = []
    longer = replace(TINY, alignment=replace(TINY.alignment, steps=5))
    history = longer.start(SEED, on_step=lambda phase, step: phases.append(phase))
    assert phases == ["alignment"] * 5
    assert history.reference.path == TINY.start(SEED).reference.path
    assert history.aligned.path != TINY.start(SEED).aligned.path


def test_a_damaged_file_is_no_start(
    made: dict[str, Tensor], package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "other machine"))
    file = package / f"seed-{SEED}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(
        HistoryError, match=r"seed-7.safetensors is missing or damaged; install revlens again"
    ):
        TINY.start(SEED)


def test_weights_that_bfloat16_does_not_hold_do_not_ship(package: Path) -> None:
    with pytest.raises(HistoryError, match="seed 3 are not rounded"):
        ship_references("recipe", {3: {"weight": torch.tensor([1.0 + 2**-20])}}, {})
    assert not list(package.glob("*.json"))


def test_the_default_organism_starts_from_references_that_ship() -> None:
    index = json.loads((shipped.FOLDER / "index.json").read_text())
    organism = OrganismConfig()
    assert index["recipe"] == organism.reference_digest
    assert sorted(index["sha256"]) == ["0", "1", "2", "3", "4"]
    for seed in range(5):
        assert shipped.shipped_reference(index["recipe"], seed) is not None
