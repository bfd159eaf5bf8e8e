"""Manifests, probe files, tables and stored configurations that are not what their names say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from hostile.payloads import pickle_that_runs
from revlens.behaviour import read_completions
from revlens.data import ChatSource, DataFolder, PromptSource
from revlens.errors import DataError, FileError, HistoryError, ProbeError, ResultsError, RevlensError
from revlens.experiment import ExperimentConfig
from revlens.history import TrainingHistory, read_table
from revlens.prompts import Probes
from revlens.storage.small_files import MAX_BYTES, read_json, read_text

Reader = Callable[[Path], Any]
#: Every reader of files that others write, with a file name and the error that the reader raises.
READERS: dict[str, tuple[Reader, type[RevlensError]]] = {
    "run.toml": (read_table, HistoryError),
    "probes.json": (Probes.from_json, ProbeError),
    "config.json": (ExperimentConfig.load, ResultsError),
    "completions.json": (read_completions, DataError),
    "prompts.json": (lambda path: PromptSource(str(path)).read(), DataError),
    "prompts.jsonl": (lambda path: PromptSource(str(path)).read(), DataError),
    "prompts.csv": (lambda path: PromptSource(str(path)).read(), DataError),
    "prompts.txt": (lambda path: PromptSource(str(path)).read(), DataError),
    "prompts.parquet": (lambda path: PromptSource(str(path)).read(), DataError),
}


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def _content(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


ODD: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device without end": lambda path: os.symlink("/dev/zero", path),
    "a link in a circle": lambda path: os.symlink(path, path),
    "a link to nowhere": lambda path: os.symlink(path.with_name("nowhere"), path),
    "10 GB of nothing": _sparse,
    "empty": _content(b""),
    "null bytes": _content(b"\0" * 100),
    "UTF-16": _content('{"direction": ["a"]}'.encode("utf-16")),
    "Latin-1": _content('["caf\u00e9"]'.encode("latin-1")),
    "binary": _content(bytes(range(256)) * 8),
    "a pickle": lambda path: pickle_that_runs(path, path.with_name("ran")),
    "a zip bomb's head": _content(b"PK\x03\x04" + b"\xff" * 60),
    "nested too deeply": _content(b"a: " + b"[" * 100_000),
    "JSON nested too deeply": _content(b'{"a":' * 100_000),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_such_file_is_refused_and_named(name: str, odd: str, tmp_path: Path) -> None:
    read, error = READERS[name]
    ODD[odd](tmp_path / name)
    if (name, odd) == ("run.toml", "empty"):
        assert read(tmp_path / name) == {}  # whoever needs a missing key names it
        return
    if name == "prompts.txt" and "nested" in odd:
        assert len(read(tmp_path / name)) == 1  # every line is a prompt
        return
    with pytest.raises(error, match=name.replace(".", r"\.")) as caught:
        read(tmp_path / name)
    assert len(str(caught.value)) < 2_000
    assert not (tmp_path / "ran").exists()


def test_a_file_that_grows_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(FileError, match=f"it has {MAX_BYTES + 1} bytes"):
        read_text(tmp_path / "big")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "it has the key 'c' twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5_000, "4300"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        ("{} {}", "Extra data"),
    ],
)
def test_json_that_readers_take_in_different_ways_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(FileError, match=message):
        read_json(tmp_path / "file.json")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    for content in (
        b'\xef\xbb\xbf{"direction":\r\n["a", "b"]}\r\n',
        b'{"direction":\r["a", "b"]}',
        b'{"direction": ["\\u0061", "b"]}',
    ):
        (tmp_path / "probes.json").write_bytes(content)
        assert Probes.from_json(tmp_path / "probes.json").splits == {"direction": ("a", "b")}
    (tmp_path / "run.toml").write_bytes(b'\xef\xbb\xbfreference = "base"\r\naligned = "chat"\r\n')
    assert read_table(tmp_path / "run.toml") == {"reference": "base", "aligned": "chat"}
    for name, content in (
        ("p.txt", b"a\r\nb\r\n"),
        ("p.csv", b"text\r\na\r\nb\r\n"),
        ("p.json", b'["a",\r\n"b"]'),
        ("p.jsonl", b'{"text":"a"}\r\n{"text":"b"}'),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert PromptSource(str(tmp_path / name)).read() == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\na = 2",
        "[a]\n[a]",
        "a = " + "[" * 50_000,
        ".".join("a" * 5_000) + " = 1",
        ".".join("a" * 40) + " = 1",
        'a = "\\ud800"',
        "a = " + "9" * 5_000,
        "a = 2024-99-99",
        "a = \\x00",
        "a",
    ],
)
def test_toml_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(HistoryError, match=r"Cannot read the manifest .*run\.toml"):
        read_table(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "text,other\na,b,c\n", "Line 2 of .*p.csv has 3 cells for 2 columns"),
        ("p.csv", "text\na\nb,c\n", "Line 3 of .*p.csv has 2 cells for 1 columns"),
        ("p.csv", "text,text\na,b\n", "different name for each column"),
        ("p.csv", 'text,other\n"a\nb,c\n', "Cannot read .*p.csv: unexpected end of data"),
        ("p.json", '[{"text": "a", "text": "b"}]', "it has the key 'text' twice"),
        ("p.jsonl", '{"text": "a", "text": "b"}', "twice"),
        ("p.json", '["a", "\\ud800"]', "surrogates not allowed"),
        ("p.jsonl", '{"text": "\\ud800"}', "surrogate"),
        ("p.jsonl", '{"text": "a"}\n{"text": ["b"]}', "."),
        ("p.jsonl", '{"text": NaN}', "No text in row 0"),
        ("p.json", '{"text": ["a", "b"]}', "Expected text"),
    ],
)
def test_tables_that_their_reader_would_misread_are_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        PromptSource(str(tmp_path / name)).read()


def test_cells_may_be_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("text\n" + "y" * 300_000 + "\n")
    assert PromptSource(str(tmp_path / "p.csv")).read() == ("y" * 300_000,)


@pytest.mark.parametrize(
    "path",
    [
        "x" * 5_000 + ".jsonl",
        "x" * 5_000,
        "~nobody-of-this-name/x.json",
        "a\0b.json",
        "a\0b",
        "http://127.0.0.1:9/x.json",
    ],
)
def test_paths_that_are_none_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        PromptSource(path).read(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5_000, "x" * 5_000 + "3", "a\0b3"])
def test_a_history_of_folders_whose_names_are_none_is_refused(name: str, tmp_path: Path) -> None:
    for table in ({"reference": name, "aligned": name}, {"reference": "a", "aligned": "b", "steps": [name]}):
        with pytest.raises(HistoryError):
            TrainingHistory.from_table(table, tmp_path)


@pytest.mark.parametrize("entry", ["../other/data-00000-of-00001.arrow", "/etc/passwd", "..", ""])
def test_a_saved_data_set_that_leads_out_of_its_folder_is_refused(entry: str, tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "other")
    Dataset.from_dict({"text": ["b"]}).save_to_disk(tmp_path / "set")
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    (tmp_path / "set" / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": entry}]}))
    with pytest.raises(DataError, match="which is no file of its own"):
        PromptSource(str(tmp_path / "set")).read()


def test_splits_that_lead_out_of_a_saved_data_set_are_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "other")
    DatasetDict({"train": Dataset.from_dict({"text": ["b"]})}).save_to_disk(tmp_path / "set")
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["../other"]}))
    with pytest.raises(DataError, match="which is no file of its own"):
        PromptSource(str(tmp_path / "set"), split="../other").read()


def test_a_data_folder_that_is_a_file_or_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="No data folder at"):
        DataFolder(tmp_path / "file").gsm8k()
    (tmp_path / "gsm8k" / "train.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match=r"lacks gsm8k/train\.jsonl"):
        DataFolder(tmp_path).gsm8k()
    (tmp_path / "instruct").mkdir()
    for text in ("{", "3", '{"instances": 3, "instruction": "x"}', "{}", "9" * 5_000, "[" * 100_000):
        (tmp_path / "instruct" / "self_instruct_seed_tasks.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"self_instruct_seed_tasks\.jsonl does not hold"):
            DataFolder(tmp_path).instruct(["self_instruct_seed_tasks"])


def test_a_pattern_does_not_reach_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match=r"b\.jsonl is no regular file"):
        ChatSource("*.jsonl").read(tmp_path)
