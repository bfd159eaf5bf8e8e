"""Tables from a path: files, folders and hub data sets."""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder, load_from_disk

from revlens.data.text_files import check_text_file
from revlens.data.text_tables import DELIMITERS, JSON, TextTable, format_of, read_text_table
from revlens.errors import DataError
from revlens.storage import is_file_name, read_json

TEXT_TABLES = (*JSON, *DELIMITERS)
FORMATS = (*TEXT_TABLES, ".parquet", ".txt")
SAVED = (datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASETDICT_JSON_FILENAME)


def read_tables(
    path: str,
    columns: Collection[str],
    *,
    root: Path,
    name: str | None,
    split: str,
    revision: str | None,
) -> dict[str, Dataset] | dict[str, TextTable]:
    """Tables by file; a folder of other than text tables, or a hub data set, is one table.

    Args:
        path: see `TableSource`, also for the other arguments.
        columns: of text tables, only their cells are kept.

    Raises:
        DataError: if the path cannot be found or read, has no such split, or is local and has a hub setting.
    """
    try:
        place = root / Path(path).expanduser()
        is_files = format_of(place)[0] in FORMATS and not place.is_dir()
        is_saved = any((place / mark).is_file() for mark in SAVED)
        is_there = is_files or place.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown ~user
        raise DataError(f"{path!r} cannot be the name of a file or folder: {error}") from error
    if (is_files or is_saved) and (name is not None or revision is not None):
        raise DataError(f"name={name!r} and revision={revision!r} are for hub data sets; {place} is local.")
    try:
        if is_files:
            return _files(place, split, columns)
        if is_saved:
            return {path: _saved(place, split)}
        if place.is_dir():
            files = _files_of_folder(place, name, split)
            if files and all(format_of(file)[0] in TEXT_TABLES for file in files):
                return _text_tables(files, columns)
            return {path: load_dataset(str(place), name, split=split, revision=revision)}
        if place.is_file():
            raise DataError(
                f"{place} is of no format that revlens reads ({', '.join(FORMATS)}); export it as one."
            )
        if path.startswith((".", "/", "~")):
            raise DataError(f"There is no file or folder {place}.")
        return {path: load_dataset(path, name, split=split, revision=revision)}
    except DataError:
        raise
    except Exception as error:  # on bad files, readers raise anything
        nowhere = "" if is_there else f"there is no file or folder {place}, and the hub did not give it: "
        raise DataError(
            f"Cannot read split {split!r} of {path!r}: {nowhere}{error.__cause__ or error}"
        ) from error


def _files(place: Path, split: str, columns: Collection[str]) -> dict[str, Dataset] | dict[str, TextTable]:
    files = (
        [place] if place.is_file() else [Path(file) for file in sorted(glob.glob(str(place), recursive=True))]
    )
    if not files:
        raise DataError(f"There is no file {place}.")
    format_, compression = format_of(place)
    if format_ in TEXT_TABLES:
        if split != "train":
            raise DataError(f"Cannot read split {split!r} of {place}: the rows of a file are all in 'train'.")
        return _text_tables(files, columns)
    if compression:
        raise DataError(f"{place} is compressed; of such files revlens reads {', '.join(TEXT_TABLES)}.")
    builder, options = {".parquet": ("parquet", {}), ".txt": ("text", {"encoding": "utf-8-sig"})}[format_]
    if builder == "text":
        for file in files:
            check_text_file(file)
    # One by one: datasets refuses files with different columns, also if the difference is not read.
    return {
        str(file): load_dataset(builder, data_files=glob.escape(str(file)), split=split, **options)
        for file in files
    }


def _text_tables(files: list[Path], columns: Collection[str]) -> dict[str, TextTable]:
    for file in files:
        if format_of(file)[1] == "":
            check_text_file(file)
    return {str(file): read_text_table(file, columns) for file in files}


def _files_of_folder(place: Path, name: str | None, split: str) -> list[Path]:
    """The files that datasets finds for a split in a local folder, if it finds any."""
    by_split = load_dataset_builder(str(place), name).config.data_files or {}
    return [Path(file) for file in by_split.get(split, [])]


def _saved(place: Path, split: str) -> Dataset:
    _check_saved(place)
    saved = load_from_disk(str(place))
    splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
    if split not in splits:
        raise DataError(f"{place} has no split {split!r}; it has {', '.join(splits)}.")
    return splits[split]


def _check_saved(place: Path) -> None:
    """Check that a saved data set names files of its own folder only."""
    state, splits = SAVED
    names: list[Any] = []
    if (place / splits).is_file():
        names += read_json(place / splits)["splits"]
    for file in [place / state, *(place / name / state for name in names)]:
        if file.is_file():
            names += [entry["filename"] for entry in read_json(file)["_data_files"]]
    outside = [name for name in names if not is_file_name(name)]
    if outside:
        raise DataError(
            f"{place} names {outside[0]!r}, which is no file of its own; save the data set again."
        )
