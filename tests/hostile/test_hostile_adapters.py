"""Adapter folders that hold code, link elsewhere or are broken."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from hostile.payloads import BROKEN_SAFETENSORS, pickle_that_runs
from revlens.errors import HistoryError
from revlens.history import Adapter, TrainingHistory, boot_with_lora, local_source, save


@pytest.fixture
def adapter(history: TrainingHistory, tmp_path: Path) -> Path:
    save(
        boot_with_lora(history.aligned.source, LoraConfig(r=2, target_modules="all-linear"), 0),
        tmp_path / "lora",
    )
    (tmp_path / "lora" / "revlens.sha256").unlink()  # adapters that revlens did not write have no seal
    return tmp_path / "lora"


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_pickled_adapter_is_refused_and_not_read(
    adapter: Path, history: TrainingHistory, tmp_path: Path
) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    pickle_that_runs(adapter / "adapter_model.bin", tmp_path / "ran")
    with pytest.raises(HistoryError, match=r"does not read pickled adapters \(adapter_model\.bin\)"):
        Adapter(adapter, history.aligned.source)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("setting", ["megatron_config", "corda_config", "lora_ga_config"])
def test_settings_with_which_peft_would_run_code_are_refused(
    setting: str, adapter: Path, history: TrainingHistory
) -> None:
    change(
        adapter / "adapter_config.json",
        **{setting: {"cache_file": "cache.pt"}, "megatron_core": "antigravity"},
    )
    with pytest.raises(HistoryError, match=f"has {setting}, with which peft reads code or pickled files"):
        Adapter(adapter, history.aligned.source)


@pytest.mark.parametrize("fault", BROKEN_SAFETENSORS)
def test_broken_safetensors_are_named(fault: str, adapter: Path, history: TrainingHistory) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(BROKEN_SAFETENSORS[fault])
    with pytest.raises(HistoryError, match=r"The adapter in .*lora cannot be read"):
        Adapter(adapter, history.aligned.source).module(torch.float32)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "\x00", '{"a":' * 5_000, '{"peft_type": "LORA", "peft_type": "IA3"}']
)
def test_settings_that_are_no_table_are_refused(text: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(HistoryError, match=r"adapter_config\.json"):
        local_source(adapter)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model_name_or_path": 3}, "base_model_name_or_path = 3 in .* must be text"),
        ({"base_model_name_or_path": "org/base", "revision": ["main"]}, "revision = .* must be text"),
        ({"base_model_name_or_path": "org/base", "revision": "../../x"}, "is no branch, tag or commit"),
        ({"base_model_name_or_path": "../../" * 40 + "x"}, "."),
    ],
)
def test_a_base_that_is_no_name_is_refused(settings: dict[str, Any], message: str, adapter: Path) -> None:
    change(adapter / "adapter_config.json", **settings)
    with pytest.raises(HistoryError, match=message):
        local_source(adapter).config()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(name: str, adapter: Path, history: TrainingHistory) -> None:
    shutil.move(adapter / name, adapter.parent / name)
    os.symlink(adapter.parent / name, adapter / name)
    with pytest.raises(HistoryError, match=rf"{name} is a link to .*, outside its folder"):
        Adapter(adapter, history.aligned.source)
