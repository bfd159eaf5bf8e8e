from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from revlens.errors import HistoryError
from revlens.history import TrainingHistory


def test_checkpoints_by_name_and_step(history: TrainingHistory) -> None:
    assert [c.name for c in history] == ["reference", "aligned", "step-1", "step-3"]
    assert history["step-3"] is history[3] is history.steps[1]
    assert history[0] is history["aligned"] is history.aligned
    assert history.n_layers == 3


def test_an_unknown_step_names_those_there_are(history: TrainingHistory) -> None:
    with pytest.raises(HistoryError, match="No checkpoint 2 in this history; it has reference, aligned, step-1, step-3"):
        history[2]


def test_steps_must_be_positive(history: TrainingHistory) -> None:
    with pytest.raises(HistoryError, match=r"\[0, 3\] must be positive"):
        TrainingHistory.from_dirs(history.reference.path, history.aligned.path, {3: history[3].path, 0: history[1].path})


def test_another_architecture_is_an_error_before_any_load(history: TrainingHistory, other_width: Path) -> None:
    with pytest.raises(HistoryError, match="'hidden_size': 32.*'hidden_size': 16.*not one model's history"):
        TrainingHistory.from_dirs(other_width, history.aligned.path)


def test_another_tokenizer_is_an_error(history: TrainingHistory, tmp_path: Path) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(history.reference.path, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<|other|>"
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(HistoryError, match="tokenizer of reference"):
        TrainingHistory.from_dirs(copy, history.aligned.path)


def test_a_missing_folder_or_tokenizer_is_named(history: TrainingHistory, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="nowhere is no Hugging Face checkpoint"):
        TrainingHistory.from_dirs(tmp_path / "nowhere", history.aligned.path)
    copy = tmp_path / "reference"
    shutil.copytree(history.reference.path, copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(HistoryError, match=r"reference: no usable tokenizer\.json"):
        TrainingHistory.from_dirs(copy, history.aligned.path)
