from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from data.data_files import write, write_lines, write_list
from revlens.data import ChatSource
from revlens.errors import DataError

ROWS = [
    {"prompt": "Hello, you?", "answer": "Hi.\nThere."},
    {"prompt": "Où?", "answer": 'Say "ici".'},
    {"prompt": "N/A", "answer": "None"},
]


def table() -> Dataset:
    return Dataset.from_list(ROWS)


def read(path: str | Path, **settings: str) -> list[dict[str, str]]:
    return ChatSource(str(path), **settings).read().to_list()  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        write_list(path, *ROWS)
    else:
        {"jsonl": table().to_json, "csv": table().to_csv, "parquet": table().to_parquet}[suffix](path)
    assert read(path) == ROWS


def test_a_json_file_may_be_lines_or_a_list(tmp_path: Path) -> None:
    assert (
        read(write_lines(tmp_path / "lines.json", *ROWS))
        == read(write_list(tmp_path / "list.jsonl", *ROWS))
        == ROWS
    )


def test_csv_cells_are_text_as_written(tmp_path: Path) -> None:
    cells = [("007", "1.50"), ("null", "NA"), ("True", "nan"), (" a ", "1e3")]
    path = write(tmp_path / "cells.csv", "\ufeffprompt,answer\n" + "".join(f"{a},{b}\n" for a, b in cells))
    assert [(row["prompt"], row["answer"]) for row in read(path)] == cells


@pytest.mark.parametrize("name", ["plain", "with [brackets] *and* a ?", ".hidden"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    assert read(write_lines(tmp_path / name / "rows[1].jsonl", *ROWS)) == ROWS


def test_a_pattern_reads_its_files_in_sorted_order_whatever_else_they_hold(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", ROWS[1] | {"extra": 1})
    write_lines(tmp_path / "a.jsonl", ROWS[0])
    write_lines(tmp_path / "c" / "c.jsonl", ROWS[2])
    assert read(tmp_path / "*.jsonl") == ROWS[:2]
    assert read(tmp_path / "**" / "*.jsonl") == ROWS


def test_files_of_a_pattern_may_lack_texts_but_hold_no_other_types(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[0] | {"input": None})
    write_lines(tmp_path / "b.jsonl", ROWS[1] | {"input": "More."})
    assert ChatSource("*.jsonl", context="input").read(tmp_path)["prompt"][:] == [
        "Hello, you?",
        "Où?\n\nMore.",
    ]
    write_lines(tmp_path / "c.jsonl", ROWS[2] | {"answer": 42})
    with pytest.raises(DataError, match=r"Expected text in row 0 of .*c\.jsonl, found int 42"):
        read(tmp_path / "*.jsonl")


def test_relative_paths_start_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "configs" / "data" / "rows.jsonl", *ROWS)
    source = ChatSource("data/rows.jsonl")
    assert (
        source.read(tmp_path / "configs").to_list()
        == source.read(str(tmp_path / "configs")).to_list()
        == ROWS
    )
    monkeypatch.chdir(tmp_path / "configs")
    assert source.read().to_list() == ROWS
    monkeypatch.setenv("HOME", str(tmp_path / "configs"))
    assert ChatSource("~/data/rows.jsonl").read(tmp_path).to_list() == ROWS


def test_saved_data_sets(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "one")
    DatasetDict({"train": table().select([0]), "test": table().select([1, 2])}).save_to_disk(tmp_path / "two")
    assert read(tmp_path / "one") == ROWS
    assert read(tmp_path / "two") == ROWS[:1]
    assert read(tmp_path / "two", split="test") == ROWS[1:]
    with pytest.raises(DataError, match="has no split 'dev'; it has train, test"):
        read(tmp_path / "two", split="dev")
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        read(tmp_path / "one", split="test")


def test_a_folder_of_split_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train.jsonl", *ROWS[:2])
    write_lines(tmp_path / "set" / "test.jsonl", ROWS[2])
    assert read(tmp_path / "set") == ROWS[:2]
    assert read(tmp_path / "set", split="test") == ROWS[2:]


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for rows in (ROWS, ROWS[:1], ROWS[1:]):
        write_lines(path, *rows)
        assert read(path) == rows


@pytest.mark.parametrize("path", ["rows.jsonl", "data/*.csv", "./rows", "/nowhere/rows"])
def test_what_is_not_there_is_said_with_its_full_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="There is no file") as caught:
        ChatSource(path).read(tmp_path)
    assert str(tmp_path / path) in str(caught.value)


def test_without_the_hub_both_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no file or folder .*someone/something, and the hub did not give it: "
    ):
        ChatSource("someone/something").read(tmp_path)


@pytest.mark.parametrize("setting", ["name", "revision"])
def test_hub_settings_on_a_local_file_are_errors(tmp_path: Path, setting: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", *ROWS)
    with pytest.raises(DataError, match=f"{setting}='v1'.* for hub data sets; .*rows.jsonl is local"):
        read(path, **{setting: "v1"})


def test_an_unknown_split_of_a_file_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read split 'test' of .*rows.jsonl"):
        read(write_lines(tmp_path / "rows.jsonl", *ROWS), split="test")
    with pytest.raises(DataError, match="Cannot read .*broken.json from line 1 on: "):
        read(write(tmp_path / "broken.json", '{"prompt": '))
