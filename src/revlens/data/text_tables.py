"""Cells of JSON and CSV files as they are written: readers that guess types make a date of "2020-01-01"."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revlens.errors import DataError

#: What each format of text tables is read by, and how compressed files are opened, by suffix.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON = (".json", ".jsonl")
COMPRESSED: dict[str, Callable[[Path], Any]] = {
    "": lambda path: path.open("rb"),
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class TextTable:
    """The columns that a file has, and the cells of those that were asked for, None where there is none."""

    column_names: list[str]
    cells: dict[str, list[Any]]

    def __len__(self) -> int:
        """Number of rows."""
        return max(map(len, self.cells.values()), default=0)


def read_text_table(file: Path, columns: Collection[str]) -> TextTable:
    """The asked-for columns of a .json, .jsonl, .csv or .tsv file, compressed or not.

    Raises:
        DataError: naming the line or row that cannot be read.
    """
    format_, compression = format_of(file)
    try:
        with (
            COMPRESSED[compression](file) as stored,
            io.TextIOWrapper(stored, encoding="utf-8-sig", newline="") as lines,
        ):  # a byte order mark is no part of the first cell
            if format_ in JSON:
                return _read_json(file, lines, columns)
            return _read_csv(file, lines, columns, DELIMITERS[format_])
    except UnicodeDecodeError as error:
        raise DataError(f"Cannot read {file}: {error}; save it as UTF-8.") from error
    except (csv.Error, EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"Cannot read {file}: {error}") from error


def format_of(path: Path) -> tuple[str, str]:
    """The suffix that names the format, and the one that names a compression or is empty."""
    if path.suffix in COMPRESSED:
        return Path(path.stem).suffix, path.suffix
    return path.suffix, ""


def _read_csv(file: Path, lines: io.TextIOWrapper, columns: Collection[str], delimiter: str) -> TextTable:
    with _cells_of_any_length():
        rows = csv.reader(lines, delimiter=delimiter, strict=True)  # else an open quote takes the rest
        header = next(rows, [])
        repeated = sorted(column for column in columns if header.count(column) > 1)
        if repeated:
            raise DataError(
                f"{file} needs a different name for each column in its first line; "
                f"{repeated[0]!r} stands there {header.count(repeated[0])} times."
            )
        places = {column: header.index(column) for column in columns if column in header}
        cells: dict[str, list[Any]] = {column: [] for column in places}
        for row in rows:
            if not row:
                continue
            if any(row[len(header) :]):  # a trailing comma makes an empty cell
                raise DataError(
                    f"Line {rows.line_num} of {file} has {len(row)} cells for {len(header)} columns; "
                    "put a cell that holds a comma in double quotes."
                )
            for column, place in places.items():
                cells[column].append(row[place] if place < len(row) else None)
    return TextTable(header, cells)


def _read_json(file: Path, lines: io.TextIOWrapper, columns: Collection[str]) -> TextTable:
    names: dict[str, None] = {}
    cells: dict[str, list[Any]] = {column: [] for column in columns}
    for index, value in enumerate(_json_rows(file, lines)):
        row = {"text": value} if isinstance(value, str) else value
        if not isinstance(row, dict):
            raise DataError(f"Row {index} of {file} must be an object or a text, not {row!r}.")
        names.update(dict.fromkeys(row))
        for column in columns:
            cells[column].append(row.get(column))
    return TextTable(list(names), {column: cells[column] for column in columns if column in names})


def _json_rows(file: Path, lines: io.TextIOWrapper) -> Iterator[Any]:
    """Rows of a list, or of objects that follow one another, a line each or not."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_or_missing)
    pending, start, opened = "", 1, False
    for number, line in enumerate(lines, 1):
        if not opened and line.strip():
            opened = True
            if line.lstrip().startswith("["):
                yield from _decoded(decoder, line + lines.read(), f"{file}")
                return
        if not pending and not line.strip():
            continue
        start = start if pending else number
        pending += line
        if not pending.rstrip().endswith("}"):
            continue  # a row over several lines
        try:
            row = _decode(decoder, pending)
        except json.JSONDecodeError as error:
            if error.pos < len(pending) - len(line):  # no further line mends an earlier one
                raise DataError(f"Cannot read line {start} of {file}: {error}") from error
            continue
        except (ValueError, RecursionError) as error:
            raise DataError(f"Cannot read line {start} of {file}: {error}") from error
        pending = ""
        yield row
    if pending.strip():
        yield _decoded(decoder, pending, f"{file} from line {start} on")


def _decoded(decoder: json.JSONDecoder, text: str, where: str) -> Any:
    try:
        return _decode(decoder, text)
    except RecursionError as error:
        raise DataError(f"Cannot read {where}: it is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"Cannot read {where}: {error}") from error


def _decode(decoder: json.JSONDecoder, text: str) -> Any:
    value = decoder.decode(text)
    if "\\ud" in text.lower():  # perhaps half a surrogate pair, which is no text
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        repeated = next(name for name in table if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"it has the key {repeated!r} twice")
    return table


def _or_missing(constant: str) -> float | None:
    """What NaN, Infinity and -Infinity stand for; pandas writes NaN for a missing cell."""
    return None if constant == "NaN" else float(constant)


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(usual)
