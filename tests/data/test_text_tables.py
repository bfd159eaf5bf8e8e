"""Text that looks like something else is read as it is written, whatever else a file holds."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_files import write, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revlens.data import ChatSource, PromptSource
from revlens.errors import DataError

LOOKS = (
    "2020-01-01",
    "2020-01-01T00:00:00Z",
    "007",
    "1e3",
    "true",
    "null",
    "None",
    "nan",
    "{}",
    "=1+1",
    "é, 'b'",
)


def csv_text(rows: list[list[str]], delimiter: str = ",") -> str:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter).writerows(rows)
    return written.getvalue()


def as_written(path: Path, texts: tuple[str, ...]) -> Path:
    """The texts in a file of the format that the path's suffixes name."""
    if path.suffixes[0] == ".json":
        content = json.dumps([{"text": text} for text in texts])
    elif path.suffixes[0] == ".jsonl":
        content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    else:
        content = csv_text([["text"], *([text] for text in texts)], "\t" if ".tsv" in path.suffixes else ",")
    packs: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(packs.get(path.suffix, bytes)(content.encode()))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.bz2", ".tsv.xz"])
def test_text_stays_what_it_is(tmp_path: Path, suffix: str) -> None:
    path = as_written(tmp_path / f"rows{suffix}", LOOKS)
    assert PromptSource(str(path)).read() == LOOKS
    assert sorted(PromptSource(str(path), seed=0).read()) == sorted(LOOKS)
    if suffix.count(".") == 1 and suffix != ".tsv":  # datasets finds no .tsv in a folder
        assert (
            PromptSource(str(as_written(tmp_path / "folder" / f"train{suffix}", LOOKS).parent)).read()
            == LOOKS
        )


def test_a_date_column_may_hold_other_text_later(tmp_path: Path) -> None:
    """Arrow takes a column's type from the first 10 MB."""
    rows = [{"text": "2020-01-01", "pad": "x" * 2**20}] * 11 + [{"text": "Why?", "pad": 5}]
    assert PromptSource(str(write_lines(tmp_path / "rows.jsonl", *rows))).read()[-1] == "Why?"


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n",'), min_size=1)
    .filter(str.strip)
    .filter(lambda text: not text.startswith("\ufeff")),
    min_size=1,
    max_size=4,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.dates().map(str),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, others=st.lists(VALUES, min_size=4, max_size=4))
def test_columns_that_nobody_asked_for_never_matter(
    tmp_path: Path, texts: list[str], others: list[Any]
) -> None:
    rows = [{"other": other, "text": text} for text, other in zip(texts, others, strict=False)]
    assert PromptSource(str(write_lines(tmp_path / "rows.jsonl", *rows))).read() == tuple(texts)
    with (tmp_path / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [["", "other", "text", "other", ""], *([0, "x", text, "", ""] for text in texts)]
        )
    assert PromptSource(str(tmp_path / "rows.csv")).read() == tuple(texts)


@pytest.mark.parametrize(
    "text",
    [
        "prompt,answer,\nWhy?,So.,\n",
        "prompt,answer,,\nWhy?,So.,,\n",
        "prompt,answer\nWhy?,So.,\n\n",
        ",prompt,answer\n0,Why?,So.\n",
        "Unnamed: 0,__index_level_0__,prompt,answer\n0,0,Why?,So.\n",
        "note,note,prompt,answer\na,b,Why?,So.\n",
        "\ufeffprompt,answer\r\nWhy?,So.\r\n",
    ],
)
def test_csv_files_as_people_have_them(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "rows.csv", text)
    assert ChatSource(str(path)).read().to_list() == [{"prompt": "Why?", "answer": "So."}]


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "Why?", "answer": "So."}',
        '\ufeff{"prompt": "Why?", "answer": "So."}\r\n\r\n',
        '{\n  "prompt": "Why?",\n  "x": {"y": {}\n},\n  "answer": "So."\n}\n',
        '\n[{"prompt": "Why?", "answer": "So.", "x": NaN}]',
    ],
)
def test_json_files_as_people_have_them(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "rows.jsonl", text)
    assert ChatSource(str(path)).read().to_list() == [{"prompt": "Why?", "answer": "So."}]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("3", "found int 3"),
        ("true", "found bool True"),
        ('["a"]', "found list"),
        ("null", "No text in row 1"),
        ("NaN", "No text in row 1"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row_and_value(tmp_path: Path, value: str, found: str) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "2020-01-01"}\n{"text": ' + value + "}\n")
    with pytest.raises(DataError, match=rf"row 1 of .*rows.jsonl.*{found}|{found} of .*rows.jsonl"):
        PromptSource(str(path)).read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "b}\n{"text": "c"}\n', "Cannot read line 2 of .*a.jsonl"),
        ("a.jsonl", b'{"text": "a"}\n3\n', "Cannot read .*a.jsonl|Row 1 of"),
        ("a.json", b'[{"text": "a"}, 3]', "Row 1 of .*a.json must be an object or a text, not 3"),
        ("a.csv", "text\né\n".encode("latin-1"), "Cannot read .*a.csv: .*save it as UTF-8"),
        ("a.csv.gz", b"text\na\n", "Cannot read .*a.csv.gz"),
        ("a.xlsx", b"PK", "of no format that revlens reads .*; export it as one"),
        ("a.txt.gz", b"", "a.txt.gz is compressed; of such files revlens reads .json"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        PromptSource(str(tmp_path / name)).read()
