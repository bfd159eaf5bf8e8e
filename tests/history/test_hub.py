"""A hub repository in a cache laid out as huggingface_hub does; conftest sets offline."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig

from revlens.errors import HistoryError
from revlens.history import Adapter, Hub, TrainingHistory, boot, boot_with_lora, hub, local_source, save

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])
COMMITS = {"main": "a" * 40, "step1": "b" * 40, "step512": "c" * 40, "step1000": "d" * 40}


def cached(cache: Path, repo: str, folders: dict[str, Path]) -> None:
    storage = cache / f"models--{repo.replace('/', '--')}"
    (storage / "refs").mkdir(parents=True)
    for revision, folder in folders.items():
        (storage / "refs" / revision).write_text(COMMITS[revision])
        shutil.copytree(folder, storage / "snapshots" / COMMITS[revision])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_revision_is_the_model_of_its_commit(history: TrainingHistory, cache: Path) -> None:
    cached(cache, "org/name", {"main": history.aligned.path, "step1": history[1].path})
    mixed = TrainingHistory.from_sources(Hub("org/name", "step1"), Hub("org/name"))
    assert mixed.aligned.source.identity() == f"org/name@{COMMITS['main']}"
    assert mixed.reference.fingerprint() == f"org/name@{COMMITS['step1']}"
    assert mixed.n_layers == history.n_layers
    for checkpoint, same in ((mixed.reference, history[1]), (mixed.aligned, history.aligned)):
        torch.testing.assert_close(checkpoint.load()(TOKENS), same.load()(TOKENS), rtol=0, atol=0)


def test_a_branch_that_moves_on_is_read_where_it_stood(history: TrainingHistory, cache: Path) -> None:
    cached(cache, "org/name", {"main": history.aligned.path, "step1": history[1].path})
    source = Hub("org/name")
    before = source.identity()
    (cache / "models--org--name" / "refs" / "main").write_text(COMMITS["step1"])
    assert source.identity() == before != Hub("org/name").identity()
    torch.testing.assert_close(boot(source)(TOKENS), history.aligned.load()(TOKENS), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("repo", "revision"), [("org/other", "main"), ("org/name", "v2"), ("no such name!", "main")]
)
def test_what_is_not_there_is_named(repo: str, revision: str, history: TrainingHistory, cache: Path) -> None:
    cached(cache, "org/name", {"main": history.aligned.path})
    with pytest.raises(
        HistoryError,
        match=f"{repo} at revision '{revision}' can be had neither from the Hugging Face Hub nor",
    ):
        Hub(repo, revision).config()


def test_pickled_weights_are_never_asked_for_and_heavy_files_only_to_load(
    history: TrainingHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(repo: str, *, allow_patterns: list[str], **settings: Any) -> str:
        asked.append(allow_patterns)
        return str(history.aligned.path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    TrainingHistory.from_sources(Hub("org/name", "step1"), Hub("org/name"))
    light = list(asked)
    boot(Hub("org/name"))
    assert not any(fnmatch("model.safetensors", pattern) for patterns in light for pattern in patterns)
    assert any(fnmatch("model.safetensors", pattern) for patterns in asked for pattern in patterns)
    names = ["pytorch_model.bin", "model.pt", "weights.pkl", "model.h5"]
    assert not any(fnmatch(name, pattern) for name in names for patterns in asked for pattern in patterns)


def test_an_adapter_names_its_base_by_repository_and_commit(
    history: TrainingHistory, cache: Path, tmp_path: Path
) -> None:
    cached(cache, "org/name", {"main": history.aligned.path, "step1": history[1].path})
    cached(cache, "org/other", {"main": history.reference.path})
    tuned = boot_with_lora(Hub("org/name", "step1"), LoraConfig(r=2, target_modules="all-linear"), seed=0)
    save(tuned, tmp_path / "adapter")
    found = local_source(tmp_path / "adapter")
    assert isinstance(found, Adapter)
    assert found.base == Hub("org/name", COMMITS["step1"])
    torch.testing.assert_close(boot(found)(TOKENS), tuned(TOKENS).detach(), rtol=0, atol=0)
    assert Adapter(tmp_path / "adapter", Hub("org/name", "step1")).base.identity() == found.base.identity()
    for other in (Hub("org/other"), Hub("org/name")):
        with pytest.raises(
            HistoryError,
            match=rf"was trained on org/name at {COMMITS['step1']}, not on Hub\(repo='{other.repo}'",
        ):
            Adapter(tmp_path / "adapter", other)


def test_registered_checkpoints_are_found_by_label(history: TrainingHistory, cache: Path) -> None:
    cached(
        cache,
        "EleutherAI/pythia-14m",
        {
            f"step{n}": p
            for n, p in ((1, history.reference.path), (512, history.aligned.path), (1000, history[3].path))
        },
    )
    published = TrainingHistory.from_registry("EleutherAI/pythia-14m", reference=1, aligned=512, steps=[1000])
    assert [c.name for c in published] == ["reference", "aligned", "step-488"]
    assert published.aligned.source == Hub("EleutherAI/pythia-14m", "step512")
    torch.testing.assert_close(published[488].load()(TOKENS), history[3].load()(TOKENS), rtol=0, atol=0)


def test_labels_that_are_not_registered() -> None:
    with pytest.raises(
        HistoryError,
        match=r"no checkpoint 600; there are 0-2 \(every 1\), 4, 8, .*1000-143000 \(every 1000\)\.",
    ):
        TrainingHistory.from_registry("EleutherAI/pythia-14m", reference=1, aligned=600)
    with pytest.raises(
        HistoryError,
        match="'org/name' has no training checkpoints in TransformerLens' registry; "
        "it knows EleutherAI/pythia, stanford-crfm",
    ):
        TrainingHistory.from_registry("org/name", reference=1, aligned=2)
