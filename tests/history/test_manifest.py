from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from revlens.errors import HistoryError
from revlens.history import Adapter, Directory, TrainingHistory, boot_with_lora, save
from revlens.history.hub import Hub
from revlens.history.manifest import parse_table


@pytest.fixture
def root(history: TrainingHistory, tmp_path: Path) -> Path:
    links = {"base": "reference", "chat": "aligned", "checkpoint-1": 1, "checkpoint-3": 3}
    for name, key in links.items():
        os.symlink(history[key].path, tmp_path / name)  # type: ignore[index]
    save(
        boot_with_lora(history.aligned.source, LoraConfig(r=2, target_modules="all-linear"), 0),
        tmp_path / "lora-5",
    )
    return tmp_path


TOML = """
reference = "base"
aligned = { dir = "chat" }
steps = "checkpoint-*"
dtype = "bfloat16"
"""
ONE_BY_ONE = """
reference = { dir = "base" }
aligned = "chat"
dtype = "bfloat16"
[steps]
1 = "checkpoint-1"
3 = { dir = "checkpoint-3" }
"""


@pytest.mark.parametrize("text", [TOML, ONE_BY_ONE])
def test_one_history_written_in_two_ways(text: str, root: Path) -> None:
    (root / "history.toml").write_text(text)
    history = TrainingHistory.from_manifest(root / "history.toml")
    expected = TrainingHistory.from_dirs(
        root / "base",
        root / "chat",
        {1: root / "checkpoint-1", 3: root / "checkpoint-3"},
        dtype=torch.bfloat16,
    )
    assert history == expected
    assert history.aligned.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "steps",
    [
        "lora-*",
        ["lora-5"],
        {"5": "lora-5"},
        {5: {"adapter": "lora-5"}},
        {5: {"adapter": "lora-5", "base": "chat"}},
    ],
)
def test_adapters_lie_on_aligned(steps: Any, root: Path, history: TrainingHistory) -> None:
    described = TrainingHistory.from_table({"reference": "base", "aligned": "chat", "steps": steps}, root)
    assert described[5].source == Adapter(root / "lora-5", Directory(root / "chat"))


def test_an_adapter_as_aligned_finds_its_base_by_its_name(root: Path, history: TrainingHistory) -> None:
    described = TrainingHistory.from_table({"reference": "base", "aligned": {"adapter": "lora-5"}}, root)
    assert described.aligned.source == Adapter(root / "lora-5", history.aligned.source)


def test_revisions_of_the_hub() -> None:
    table = {
        "reference": {"hub": "org/base"},
        "aligned": {"hub": "org/chat", "revision": "v1"},
        "steps": {1: {"hub": "org/tuned"}},
    }
    reference, aligned, steps, settings = parse_table(table, Path())
    assert (reference, aligned, steps) == (
        Hub("org/base", "main"),
        Hub("org/chat", "v1"),
        {1: Hub("org/tuned", "main")},
    )
    assert settings == {"dtype": torch.float32, "any_template": False}


GOOD: dict[str, Any] = {"reference": "base", "aligned": "chat"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            GOOD | {"refrence": "base"},
            "Unknown key refrence of a history; known are reference, aligned, steps, dtype",
        ),
        ({"reference": "base"}, "needs 'aligned'"),
        (GOOD | {"dtype": ["float32"]}, "must be one of float32"),
        (GOOD | {"dtype": "int8"}, "dtype = 'int8' must be one of float32, bfloat16, float16"),
        (
            GOOD | {"aligned": {"dir": "chat", "revision": "v1"}},
            "Unknown key revision of a source by 'dir'; known are dir",
        ),
        (
            GOOD | {"aligned": {"dir": "chat", "hub": "org/chat"}},
            "exactly one of the keys dir, gguf, hub, adapter",
        ),
        (GOOD | {"aligned": 3}, "3 must be a folder or a table"),
        (GOOD | {"aligned": {"hub": 3}}, "hub = 3 must be a string"),
        (GOOD | {"steps": {"three": "checkpoint-3"}}, "key 'three'; keys are numbers"),
        (GOOD | {"steps": {"3": "checkpoint-3", 3: "checkpoint-1"}}, "names step 3 twice"),
        (GOOD | {"steps": [{"hub": "org/tuned"}]}, "must list folders"),
        (GOOD | {"steps": 3}, "steps = 3 must be a glob pattern"),
        (GOOD | {"steps": "nothing-*"}, "No folder matches"),
    ],
)
def test_tables_that_say_something_else(table: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(HistoryError, match=message):
        TrainingHistory.from_table(table, root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken.toml", "reference = ", "Cannot read the manifest"),
        ("history.json", "{}", "is no TOML file"),
        ("history", TOML, "is no TOML file"),
    ],
)
def test_files_that_are_no_manifest(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HistoryError, match=message):
        TrainingHistory.from_manifest(tmp_path / name)


@pytest.mark.parametrize("name", ["history.yaml", "history.yml"])
def test_yaml_is_refused_with_advice_that_works(name: str, root: Path) -> None:
    (root / name).write_text("reference: base\naligned: {dir: chat}\nsteps: checkpoint-*\n")
    with pytest.raises(HistoryError, match="Manifests are TOML: write it as history.toml") as refused:
        TrainingHistory.from_manifest(root / name)
    advised = re.search(r"write it as (\S+),", str(refused.value))
    assert advised
    (root / advised[1]).write_text(TOML)
    assert [c.name for c in TrainingHistory.from_manifest(root / advised[1])][2:] == ["step-1", "step-3"]


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_without_a_name_is_no_manifest(name: str) -> None:
    with pytest.raises(HistoryError, match="is no TOML file"):
        TrainingHistory.from_manifest(name)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="Cannot read the manifest"):
        TrainingHistory.from_manifest(tmp_path / "history.toml")
