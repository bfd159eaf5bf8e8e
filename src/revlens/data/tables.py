"""Tables from a path: files, folders and hub data sets."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, Features, Value, load_dataset, load_from_disk

from revlens.data.text_files import check_text_file, csv_header
from revlens.errors import DataError
from revlens.storage import is_file_name, read_json

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
SAVED = (datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASETDICT_JSON_FILENAME)


def read_tables(
    path: str, *, root: Path, name: str | None, split: str, revision: str | None
) -> dict[str, Dataset]:
    """Tables by file; a folder or a hub data set is one table. See `TableSource` for the arguments.

    Raises:
        DataError: if the path cannot be found or read, has no such split, or is local and has a hub setting.
    """
    try:
        place = root / Path(path).expanduser()
        is_files = place.suffix in BUILDERS and not place.is_dir()
        is_saved = any((place / mark).is_file() for mark in SAVED)
        is_there = is_files or place.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown ~user
        raise DataError(f"{path!r} cannot be the name of a file or folder: {error}") from error
    if (is_files or is_saved) and (name is not None or revision is not None):
        raise DataError(f"name={name!r} and revision={revision!r} are for hub data sets; {place} is local.")
    try:
        if is_files:
            return _files(place, split)
        if is_saved:
            return {path: _saved(place, split)}
        if place.is_dir():
            return {path: load_dataset(str(place), name, split=split, revision=revision)}
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


def _files(place: Path, split: str) -> dict[str, Dataset]:
    files = [str(place)] if place.is_file() else sorted(glob.glob(str(place), recursive=True))
    if not files:
        raise DataError(f"There is no file {place}.")
    builder = BUILDERS[place.suffix]
    if builder != "parquet":
        for file in files:
            check_text_file(Path(file))
    # One by one: datasets refuses files with different columns, also if the difference is not read.
    return {
        file: load_dataset(builder, data_files=glob.escape(file), split=split, **_options(builder, file))
        for file in files
    }


def _options(builder: str, file: str) -> dict[str, Any]:
    if builder == "text":
        return {"encoding": "utf-8-sig"}  # a byte order mark is no part of the first prompt
    if builder != "csv":
        return {}
    # Every cell is text: by default pandas makes 7 of "007" and a missing value of the answer "None".
    header = csv_header(Path(file))
    return {
        "features": Features({column: Value("string") for column in header}),
        "na_filter": False,
        "encoding": "utf-8-sig",
    }


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
