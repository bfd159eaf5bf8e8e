"""Tables in files: reading gives the cells that were written, or what a plain parser reads, or an error."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from hostile.fuzzing import Law, explains, law
from hostile.odd_values import ODD_TEXT
from revlens.data import ChatSource, PromptSource
from revlens.errors import DataError

LAWS: list[Law] = []
CELL = st.text(min_size=1, max_size=12) | ODD_TEXT
ROWS = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5)


def as_csv(rows: list[tuple[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("prompt", "answer"), *rows])


def as_lines(rows: list[tuple[str, str]], path: Path) -> None:
    path.write_text(
        "".join(json.dumps({"prompt": p, "answer": a}, ensure_ascii=len(p) % 2 == 0) + "\n" for p, a in rows),
        encoding="utf-8",
    )


def as_list(rows: list[tuple[str, str]], path: Path) -> None:
    path.write_text(
        json.dumps([{"prompt": p, "answer": a} for p, a in rows], ensure_ascii=len(rows) % 2 == 0),
        encoding="utf-8",
    )


def as_parquet(rows: list[tuple[str, str]], path: Path) -> None:
    pq.write_table(pa.table({"prompt": [p for p, _ in rows], "answer": [a for _, a in rows]}), path)


WRITERS: dict[str, Callable[[list[tuple[str, str]], Path], None]] = {
    "rows.csv": as_csv, "rows.jsonl": as_lines, "rows.json": as_list, "rows.parquet": as_parquet,
}  # fmt: skip


@law(LAWS, 150, rows=ROWS, name=st.sampled_from(sorted(WRITERS)))
def cells_are_read_as_they_were_written(rows: list[tuple[str, str]], name: str) -> None:
    blank = any(not text.strip() for row in rows for text in row)
    null = name == "rows.csv" and any("\0" in text for row in rows for text in row)
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[name](rows, Path(folder) / name)
        try:
            data = ChatSource(str(Path(folder) / name)).read()
        except DataError as error:
            explains(
                error, name if blank or null else "found datetime"
            )  # Arrow turns a column of date strings into dates; revlens refuses it
            return
    assert not blank
    assert not null
    assert list(zip(data["prompt"], data["answer"], strict=True)) == rows


@law(
    LAWS,
    100,
    prompts=st.lists(CELL, min_size=1, max_size=5),
    name=st.sampled_from(["prompts.json", "prompts.txt"]),
)
def lists_of_prompts_are_read_as_they_were_written(prompts: list[str], name: str) -> None:
    if name == "prompts.txt":  # one a line, with any line ending
        prompts = [
            line for prompt in prompts for line in io.StringIO(prompt, newline=None).read().split("\n")
        ]
    blank, null = (
        any(not prompt.strip() for prompt in prompts),
        name == "prompts.txt" and any("\0" in prompt for prompt in prompts),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(
            "\n".join(prompts) if name == "prompts.txt" else json.dumps(prompts), encoding="utf-8-sig"
        )
        try:
            read = PromptSource(str(path)).read()
        except DataError as error:
            explains(error, name if blank or null else "found datetime")
            return
    # An empty last line is no row.
    assert list(read) == prompts or (name == "prompts.txt" and [*read, ""] == prompts)


SCRAPS = st.lists(
    st.sampled_from(["a", "b", " ", ",", ",", "\n", "\n", '"', '""', "\r\n", "\t", ";", "\u00e9", "'", "\\"]),
    max_size=14,
).map("".join)


@law(LAWS, 150, body=SCRAPS)
def scraps_of_csv_are_read_as_the_csv_module_reads_them_or_refused(body: str) -> None:
    text = "prompt,answer\n" + body
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(text.encode())
        try:
            data = ChatSource(str(path)).read()
        except DataError as error:
            explains(error, "rows.csv")
            return
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    assert [list(pair) for pair in zip(data["prompt"], data["answer"], strict=True)] == [
        row for row in rows if row
    ]
