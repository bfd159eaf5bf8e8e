from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from revlens.errors import HistoryError
from revlens.history import Directory, TrainingHistory, boot, save
from revlens.storage.checksums import SUMS

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])


@pytest.fixture
def sharded(history: TrainingHistory, tmp_path: Path) -> Path:
    path = tmp_path / "sharded"
    shutil.copytree(history.aligned.path, path)
    (path / "model.safetensors").unlink()
    (path / SUMS).unlink()
    AutoModelForCausalLM.from_pretrained(history.aligned.path).save_pretrained(path, max_shard_size="20KB")
    return path


def test_shards_are_one_model(sharded: Path, history: TrainingHistory) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 1
    torch.testing.assert_close(boot(sharded)(TOKENS), history.aligned.load()(TOKENS), rtol=0, atol=0)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(HistoryError, match=f"lacks {shard.name} of the"):
        boot(sharded)


def test_weights_are_loaded_in_the_dtype_asked_for_whatever_the_file_says(
    history: TrainingHistory, tmp_path: Path
) -> None:
    half = boot(history.aligned.path, torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    save(half, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    again = boot(tmp_path / "half", torch.bfloat16)
    torch.testing.assert_close(again(TOKENS), half(TOKENS), rtol=0, atol=0)
    wide = boot(tmp_path / "half")
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    assert all(
        torch.equal(w.bfloat16(), h) for w, h in zip(wide.parameters(), half.parameters(), strict=True)
    )


def test_every_load_has_its_own_weights(history: TrainingHistory) -> None:
    one, other = history.aligned.load(), history.aligned.load()
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_the_language_model_of_a_multimodal_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": {"num_hidden_layers": 7}})
    )
    assert Directory(tmp_path).config() == {"num_hidden_layers": 7}


def test_the_fingerprint_follows_the_content_and_not_the_place(
    history: TrainingHistory, tmp_path: Path
) -> None:
    shutil.copytree(history.aligned.path, tmp_path / "copy")
    copy = Directory(tmp_path / "copy")
    assert copy.fingerprint() == history.aligned.fingerprint() != history.reference.fingerprint()
    assert copy.identity() != history.aligned.source.identity
    shutil.copy(history[1].path / "model.safetensors", tmp_path / "copy")
    assert copy.fingerprint() == history[1].fingerprint() != history.aligned.fingerprint()


def test_a_checkpoint_that_brings_its_own_code_is_not_run(history: TrainingHistory, tmp_path: Path) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(history.aligned.path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}})
    )
    (folder / SUMS).unlink()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(HistoryError, match=r"runs no code from checkpoints"):
        Directory(folder).module(torch.float32)
    assert not (tmp_path / "ran").exists()
