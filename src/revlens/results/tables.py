"""Tables by name, kept as one Parquet file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import pandas as pd

from revlens.errors import ResultsError
from revlens.storage import atomic_file, intact, seal

_Kind = TypeVar("_Kind", bound="Tables")  # typing.Self is more than beartype can check here


@dataclass(frozen=True)
class Tables:
    """The tables of one output, by name. A subclass says which there are."""

    #: Every table and what a row of it is.
    described: ClassVar[Mapping[str, str]]
    #: The verb of `revlens` that makes them.
    verb: ClassVar[str]

    tables: dict[str, pd.DataFrame]

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    def save(self, folder: Path) -> None:
        """Write one Parquet file per table, and the list of what the folder then holds."""
        for name, table in self.tables.items():
            with atomic_file(folder / f"{name}.parquet") as partial:
                table.to_parquet(partial, index=False)
        seal(folder)

    @classmethod
    def load(cls: type[_Kind], folder: Path) -> _Kind:
        """Read what `save` wrote.

        Raises:
            ResultsError: naming the first table that is missing or damaged.
        """
        for name in cls.described:
            if not (folder / f"{name}.parquet").is_file():
                raise ResultsError(f"No table {name!r} in {folder}; run `revlens {cls.verb}` first.")
        return cls(
            {name: pd.read_parquet(intact(folder / f"{name}.parquet", cls.verb)) for name in cls.described}
        )
