"""Stored tables against recomputed ones, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from revlens.audit.difference import Difference, Verification, missing
from revlens.experiment import FineTune
from revlens.results import Tables

#: What tells one fine-tune from another, also where it is a fraction.
_SETTINGS = frozenset(field.name for field in fields(FineTune))


def compare_tables(folder: Path, tables: Tables) -> Verification:
    """Compare every cell of the tables in a folder with that of the recomputed tables."""
    computed = {name: tables[name] for name in tables.described}
    differences = [
        difference
        for name, table in computed.items()
        for difference in _differences(table, folder / f"{name}.parquet", tables.verb)
    ]
    n_cells = sum(table.size for table in computed.values())
    return Verification(tuple(differences), {"tables": len(computed), "cells": n_cells})


def _differences(computed: pd.DataFrame, path: Path, verb: str) -> Iterator[Difference]:
    try:
        stored = pd.read_parquet(path)
    except FileNotFoundError:
        yield missing(path, verb)
        return
    except (OSError, ValueError, ArrowException) as error:
        yield Difference(str(path), f"cannot be read: {error}")
        return
    if list(stored.columns) != list(computed.columns) or len(stored) != len(computed):
        theirs, ours = (f"{len(table)} rows of {list(table.columns)}" for table in (stored, computed))
        yield Difference(str(path), f"stored {theirs}, recomputed {ours}")
        return
    names = [name for name in computed if _names_rows(computed[name])]
    for column in computed:
        ours, theirs = computed[column], stored[column]
        unequal = ~((ours == theirs) | (ours.isna() & theirs.isna()))
        for row in computed.index[unequal]:
            which = (f"{name} {_short(computed.loc[row, name])}" for name in names if name != column)
            yield Difference(
                f"{path}, row {row} ({', '.join(which)}), column {column}",
                f"stored {_plain(theirs[row])!r}, recomputed {_plain(ours[row])!r}",
            )


def _names_rows(column: pd.Series) -> bool:
    """Whether a column says which row it is: texts and whole numbers do, and what tells runs apart.

    Other fractions, and what is true or false, are measured.
    """
    return column.name in _SETTINGS or column.dtype.kind not in "fb"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
