"""Which rows of which table to read, in plain values."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets

from revlens.data.tables import read_tables
from revlens.data.text_tables import TextTable
from revlens.errors import ConfigError, DataError


class DroppedWarning(UserWarning):
    """Rows without text, or repeated prompts, were left out; the message says how many."""


class Row(NamedTuple):
    """Cells of one row, by the setting that names their column.

    Attributes:
        where: what to call the row in an error.
        cells: as stored.
    """

    where: str
    cells: dict[str, Any]


@dataclass(frozen=True)
class TableSource:
    """What every source of data has. Its values are plain: it can be written to a JSON or TOML file.

    Attributes:
        path: a .json, .jsonl, .csv, .tsv, .parquet or .txt file, a pattern of such files (``data/*.jsonl``,
            read in sorted order), a folder written by ``Dataset.save_to_disk``, any other folder that
            ``datasets.load_dataset`` reads, or a hub id. A relative path starts at the ``root`` given to
            ``read``. Cells of JSON, CSV and TSV (also compressed: .gz, .bz2, .xz) are read as written: a
            date stays text, CSV's "12" and "None" are text, JSON's 12 is no text and is refused. Columns that
            no setting names do not matter.
        name: configuration of a hub data set or folder.
        split: split; the rows of plain files are all in ``train``.
        revision: commit or tag of a hub data set; if None, what the hub has today.
        limit: largest number of rows to take; all if None.
        where: by column, the text that a row must have there to be taken, such as ``{"label": "safe"}``;
            every row if empty.
        seed: fixes a random order of the rows, before the limit; if None, they keep the source's order.
        drop_empty: leave out rows without text, with a `DroppedWarning`, rather than raise.

    Raises:
        ConfigError: if ``limit`` is not positive.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: int | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    drop_empty: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit={self.limit} must be positive; leave it out to take every row.")

    def rows(self, columns: Mapping[str, str], root: str | Path | None) -> Iterator[Row]:
        """Every row that is taken, in the order that ``seed`` fixes.

        Args:
            columns: columns to read, by the setting that names them.
            root: the folder that a relative path starts at; the working directory if None.

        Raises:
            DataError: if the source cannot be read, lacks a column, or its files hold different types in one;
                if no row is as ``where`` says.
        """
        needed = dict(columns) | {f"where.{column}": column for column in self.where}
        tables = read_tables(
            self.path,
            sorted(set(needed.values())),
            root=Path(root or "."),
            name=self.name,
            split=self.split,
            revision=self.revision,
        )
        for file, table in tables.items():
            missing = [
                f"{setting}={column!r}"
                for setting, column in needed.items()
                if column not in table.column_names
            ]
            if missing:
                raise DataError(
                    f"{file} has no column for {', '.join(missing)}; "
                    f"it has {shorten(', '.join(table.column_names), 500, placeholder=' ...')}."
                )
        order = np.arange(sum(map(len, tables.values())))
        if self.seed is not None:
            np.random.default_rng(self.seed).shuffle(order)
        files, starts = list(tables), [0, *accumulate(map(len, tables.values()))]
        homes = [bisect_right(starts, index) - 1 for index in order]
        places = [(files[home], int(index) - starts[home]) for home, index in zip(homes, order, strict=True)]
        found = False
        for (file, row), cells in zip(
            places, self._cells(tables, needed.values(), order, places), strict=True
        ):
            if all(cells[column] == text for column, text in self.where.items()):
                found = True
                yield Row(
                    f"row {row} of {file}", {setting: cells[column] for setting, column in columns.items()}
                )
        if self.where and not found:
            raise DataError(f"No row of {self.path} has {dict(self.where)}; correct where, or leave it out.")

    def _cells(
        self,
        tables: Mapping[str, Dataset] | Mapping[str, TextTable],
        columns: Collection[str],
        order: np.ndarray,
        places: Sequence[tuple[str, int]],
    ) -> Iterator[dict[str, Any]]:
        """The cells of rows, by their place in all tables together, or by file and row: ``places``."""
        texts = {file: table for file, table in tables.items() if isinstance(table, TextTable)}
        if texts:
            yield from (
                {column: texts[file].cells[column][row] for column in columns} for file, row in places
            )
            return
        needed = [
            table.select_columns(sorted(set(columns)))
            for table in tables.values()
            if isinstance(table, Dataset)
        ]
        try:
            together = concatenate_datasets(needed)
        except ValueError as error:
            raise DataError(f"The files of {self.path} hold different types in a column: {error}") from error
        yield from together if self.seed is None else together.select(order, keep_in_memory=True)

    def collect(self, texts: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
        """The texts of at most ``limit`` rows.

        Args:
            texts: each row's name for errors, and its texts; it is empty if any of them is blank.

        Raises:
            DataError: on an empty row, unless ``drop_empty``; if no row is left.
        """
        kept: list[tuple[str, ...]] = []
        n_empty = 0
        for where, row in texts:
            if all(text.strip() for text in row):
                kept.append(row)
            elif self.drop_empty:
                n_empty += 1
            else:
                raise DataError(
                    f"No text in {where}: {row!r}. Fill it in, or leave such rows out with drop_empty=True."
                )
            if len(kept) == self.limit:
                break
        if not kept:
            raise DataError(f"{self.path} has no rows with text ({n_empty} without).")
        if n_empty:
            warnings.warn(
                f"Left out {n_empty} row(s) without text of {self.path}.", DroppedWarning, stacklevel=3
            )
        return kept


def text_of(cell: object, where: str) -> str:
    """A cell's text; a missing one has none.

    Raises:
        DataError: if the cell holds anything but text.
    """
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise DataError(f"Expected text in {where}, found {type(cell).__name__} {repr(cell)[:200]}.")
    return cell
