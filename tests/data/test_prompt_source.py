from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.data_files import write, write_list
from revlens.data import DroppedWarning, PromptSource
from revlens.errors import DataError

PROMPTS = ("How are you?", 'Say "a, b".', "Où est-ce?")


def test_rows_are_chosen_by_what_they_have_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,label\nOne?,safe\nTwo?,unsafe\nThree?,safe\n")
    source = PromptSource(str(path), column="prompt", where={"label": "safe"})
    assert source.read() == ("One?", "Three?")
    assert replace(source, limit=1, seed=3).read() in {("One?",), ("Three?",)}
    with pytest.raises(DataError, match=r"No row of .* has \{'label': 'odd'\}; correct where"):
        replace(source, where={"label": "odd"}).read()
    with pytest.raises(DataError, match=r"has no column for where.kind='kind'; it has prompt, label"):
        replace(source, where={"kind": "safe"}).read()


def test_a_list_a_text_file_and_a_column_give_the_same_prompts(tmp_path: Path) -> None:
    write_list(tmp_path / "list.json", *PROMPTS)
    write(tmp_path / "lines.txt", "\n".join(PROMPTS) + "\n")
    write_list(tmp_path / "column.json", *({"instruction": prompt, "category": None} for prompt in PROMPTS))
    sources = [
        PromptSource("list.json"),
        PromptSource("lines.txt"),
        PromptSource("column.json", column="instruction"),
    ]
    assert [source.read(tmp_path) for source in sources] == [PROMPTS] * 3


def test_a_blank_line_is_an_empty_row(tmp_path: Path) -> None:
    path = str(write(tmp_path / "lines.txt", "One?\n\nTwo?\n"))
    with pytest.raises(DataError, match=r"No text in row 1 of .*lines\.txt"):
        PromptSource(path).read()
    with pytest.warns(DroppedWarning, match="Left out 1 row"):
        assert PromptSource(path, drop_empty=True).read() == ("One?", "Two?")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_list(tmp_path / "rows.json", {"goal": "Why?"})
    with pytest.raises(DataError, match="no column for column='text'; it has goal"):
        PromptSource(str(path)).read()


def test_limit_and_seed(tmp_path: Path) -> None:
    path = str(write_list(tmp_path / "list.json", *(f"Prompt {i}" for i in range(40))))
    assert (
        PromptSource(path, seed=1, limit=5).read()
        == PromptSource(path, seed=1).read()[:5]
        != PromptSource(path).read()[:5]
    )
