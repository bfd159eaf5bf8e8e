"""Faults of text files that table readers ignore in silence, or that block them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from revlens.errors import DataError, FileError
from revlens.storage import read_json

_CHUNK = 2**20
_LONGEST_CELL = 2**31 - 1


def check_text_file(file: Path) -> None:
    """Check that a .json, .jsonl, .csv or .txt file is text, and a list in JSON as `check_list` does.

    Raises:
        DataError: if it is no regular file, or holds a null byte: then it is binary, sparse or UTF-16. Also
            see `check_list`.
    """
    if not file.is_file():
        raise DataError(f"{file} is no regular file.")
    with file.open("rb") as content:
        start = content.read(_CHUNK)
        chunk, place = start, 0
        while chunk:
            if b"\0" in chunk:
                raise DataError(
                    f"{file} has a null byte at {place + chunk.index(0)}, so it is no UTF-8 text; "
                    "save it as UTF-8."
                )
            place += len(chunk)
            chunk = content.read(_CHUNK)
    if file.suffix in (".json", ".jsonl") and start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        check_list(file)


def csv_header(file: Path) -> list[str]:
    """Names of the columns, after a check of every line.

    Of a row that is too long, pandas would drop the first cells; of columns of one name, all but the first.

    Raises:
        DataError: naming the line.
    """
    try:
        # A byte order mark is no part of the first column's name.
        with _cells_of_any_length(), file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines)
            header = next(rows, [])
            repeated = [name for name in header if header.count(name) > 1]
            if repeated or "" in header:
                raise DataError(
                    f"{file} needs a different name for each column in its first line; "
                    f"it has {', '.join(map(repr, header))}."
                )
            for row in rows:
                if len(row) > len(header):
                    raise DataError(
                        f"Line {rows.line_num} of {file} has {len(row)} cells for {len(header)} columns; "
                        "put a cell that holds a comma in double quotes."
                    )
            return header
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {file}: {error}") from error


def check_list(file: Path) -> None:
    """Check a JSON list as a whole: of a key that a row has twice, the reader would take the last.

    Raises:
        DataError: if `revlens.storage.read_json` cannot read it.
    """
    try:
        read_json(file)
    except FileError as error:
        raise DataError(
            f"Cannot read {file}: {error}. More rows fit into JSON lines, one object a line."
        ) from error


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(usual)
