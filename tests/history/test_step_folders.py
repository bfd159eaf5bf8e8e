from __future__ import annotations

import json
from pathlib import Path

import pytest

from revlens.errors import HistoryError
from revlens.history.step_folders import by_step, step_folders


def folders(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir()


def test_steps_come_in_numerical_order(tmp_path: Path) -> None:
    folders(tmp_path, "checkpoint-100", "checkpoint-20", "checkpoint-3", "runs")
    (tmp_path / "checkpoint-7").write_text("a file")
    assert list(step_folders("checkpoint-*", tmp_path).items()) == [
        (n, tmp_path / f"checkpoint-{n}") for n in (3, 20, 100)
    ]


def test_a_pattern_is_a_pattern_and_a_folder_is_a_folder(tmp_path: Path) -> None:
    folders(tmp_path, "run[1]", "run[1]/step-3")
    assert step_folders("step-*", tmp_path / "run[1]") == {3: tmp_path / "run[1]" / "step-3"}
    assert step_folders(f"{tmp_path}/*/step-*", Path()) == {3: tmp_path / "run[1]" / "step-3"}


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"No folder matches 'step-\*' from "):
        step_folders("step-*", tmp_path)


def test_names_without_a_number_or_with_the_same(tmp_path: Path) -> None:
    folders(tmp_path, "final", "step-3", "checkpoint-3")
    with pytest.raises(HistoryError, match="final does not end in its step"):
        by_step([tmp_path / "final"])
    with pytest.raises(HistoryError, match=r"step-3 and .*checkpoint-3 both end in step 3"):
        by_step([tmp_path / "step-3", tmp_path / "checkpoint-3"])


def test_the_trainer_has_the_last_word_on_the_step(tmp_path: Path) -> None:
    folders(tmp_path, "checkpoint-3")
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 3}))
    assert list(step_folders("*", tmp_path)) == [3]
    state.write_text(json.dumps({"global_step": 30}))
    with pytest.raises(HistoryError, match="ends in 3, but its trainer_state.json says global_step 30"):
        step_folders("*", tmp_path)
    state.write_text("{}")
    with pytest.raises(HistoryError, match="names no global_step"):
        step_folders("*", tmp_path)
