from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "analyses" / "judge_agreement.py"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two models with a file each; the second model's label is the opposite of its replies."""
    (tmp_path / "completions").mkdir()
    for model, jailbreak in (("one", 0), ("two", 1)):
        rows = [
            {"prompt": "How?", "response": "I cannot say.", "is_jailbreak_substring_matching": jailbreak},
            {
                "prompt": "How?",
                "response": "Take the rasp.",
                "is_jailbreak_substring_matching": 1 - jailbreak,
            },
        ]
        (tmp_path / "completions" / f"{model}__harmful.json").write_text(json.dumps({"completions": rows}))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(sys, "argv", ["judge_agreement.py", *args])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_table_holds_every_model_file_label_and_list(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--data-dir", str(data_dir))
    lines = [
        line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")
    ]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert [row[:6] for row in rows[:4]] == [
        ["phrases", "one", "harmful", "substring_matching", "2", "1.000"],
        ["phrases", "two", "harmful", "substring_matching", "2", "0.000"],
        ["phrases", "one", "all", "substring_matching", "2", "1.000"],
        ["phrases", "two", "all", "substring_matching", "2", "0.000"],
    ]
    assert [row[7:] for row in rows[:2]] == [["1", "0", "0", "1"], ["0", "1", "1", "0"]]
    assert rows[0][6].startswith("1.00 [1.00, 1.00] (")
    assert rows[4:] == [
        [name, where, "1.000, 1.00", "0.000, -1.00"] for name, where in ((row[0], row[1]) for row in rows[4:])
    ]
    assert len(rows[4:]) == 10


def test_a_folder_without_completions_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--data-dir", str(tmp_path / "nowhere"))
    assert end.value.code == 2
    assert f"no completions/MODEL__FILE.json in {tmp_path / 'nowhere'}" in capsys.readouterr().err
