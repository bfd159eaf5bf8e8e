from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from revlens.behaviour import Completion, read_completions
from revlens.errors import DataError

ROW = {"prompt": "How?", "response": "I can’t.", "category": None, "is_jailbreak_substring_matching": 0}


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "completions.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_reply_that_is_no_jailbreak_is_refused(tmp_path: Path) -> None:
    rows = [
        ROW | {"is_jailbreak_llamaguard2": 1},
        ROW | {"response": "", "is_jailbreak_substring_matching": 1, "is_jailbreak_llamaguard2": 0},
    ]
    assert read_completions(
        written(tmp_path, {"substring_matching_success_rate": 0.5, "completions": rows})
    ) == [
        Completion("How?", "I can’t.", {"substring_matching": True, "llamaguard2": False}),
        Completion("How?", "", {"substring_matching": False, "llamaguard2": True}),
    ]
    assert len(read_completions(str(tmp_path / "completions.json"))) == 2


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read completions from .*nowhere.json"):
        read_completions(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="Cannot read completions from .*broken.json"):
        read_completions(tmp_path / "broken.json")


@pytest.mark.parametrize("content", [[], {}, {"completions": []}, {"completions": "none"}, "text"])
def test_a_file_without_completions_is_an_error(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match="holds no completions"):
        read_completions(written(tmp_path, content))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "completion 1 needs a text 'prompt' and a text 'response'"),
        (
            {key: value for key, value in ROW.items() if key != "response"},
            "needs a text 'prompt' and a text 'response'",
        ),
        (ROW | {"prompt": None}, "needs a text 'prompt' and a text 'response'"),
        ({"prompt": "How?", "response": "So."}, "completion 1 has no label"),
        (ROW | {"is_jailbreak_substring_matching": 2}, "is_jailbreak_substring_matching=2; expected 0 or 1"),
        (
            ROW | {"is_jailbreak_substring_matching": None},
            "is_jailbreak_substring_matching=None; expected 0 or 1",
        ),
        (
            ROW | {"is_jailbreak_harmbench": 1},
            r"completion 1 is labelled by \['substring_matching', 'harmbench'\], the first by",
        ),
    ],
)
def test_a_completion_of_another_form_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_completions(written(tmp_path, {"completions": [ROW, row]}))
