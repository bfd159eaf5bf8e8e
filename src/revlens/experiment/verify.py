"""An audit of an output folder: every byte against its checksum, every table and claim against what it was computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from revlens.activations import Activations
from revlens.errors import ResultsError, RevlensError
from revlens.experiment.claims import Claim, to_records
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.pipeline import assess_all, key_problem
from revlens.experiment.provenance import provenance
from revlens.experiment.results import Results, analyse
from revlens.results import Layout, Tables, config_json
from revlens.storage import LOCK, SCRATCH, SUMS, damages

#: Columns that say which row of a table it is.
_NAMES = (
    "part", "seed", "arm", "method", "strength", "guarded", "task", "rate", "step", "layer", "pair", "component", "position", "subject",
    "site", "action", "direction", "draw", "split", "model", "place", "source", "predictor",
)  # fmt: skip
_Tables = TypeVar("_Tables", bound=Tables)


@dataclass(frozen=True)
class Difference:
    """Something that is not as it should be.

    Attributes:
        place: what was compared: a file, with row and column or field where there are any, a checksum or a folder of activations.
        what: what is wrong there, with the stored and the recomputed value where there are any.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class Verification(Generic[_Tables]):
    """What an audit found.

    Attributes:
        differences: everything that is not as it should be.
        counts: how many of what were compared.
        results: the recomputed tables; None if they could not be computed.
    """

    differences: tuple[Difference, ...]
    counts: Mapping[str, int]
    results: _Tables | None = None

    def and_also(self, other: Verification[Any]) -> Verification[_Tables]:
        """Both together; what both have found is said once."""
        counts = {
            name: self.counts.get(name, 0) + other.counts.get(name, 0)
            for name in {**self.counts, **other.counts}
        }
        return Verification(tuple(dict.fromkeys(self.differences + other.differences)), counts, self.results)

    def summary(self) -> str:
        """Counts, in a line."""
        compared = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        return f"Compared: {compared}. Differences: {len(self.differences) or 'none'}."


def verify(out: Path) -> Verification[Results]:
    """Check every stored byte that has a checksum, then compute every table and claim again and compare them exactly.

    Nothing is written. Figures and the report are checked by `revlens.figures.verify_figures`.

    Args:
        out: the output folder of an experiment whose stages and analysis have been run.

    Raises:
        ResultsError: if the folder holds no experiment that can be read.
    """
    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    differences = [*_of_configuration(config, layout)]
    tied = not differences
    n_files, damaged = compare_files(layout.out / "runs", layout.results, layout.figures)
    differences += damaged
    if layout.report.is_file():
        differences += [Difference("checksum", problem) for problem in damages(layout.out)]
    n_shards, damaged = _of_activations(config, layout)
    differences += damaged
    counts = {"files": n_files + layout.report.is_file() + 2, "activation folders": n_shards}
    if not tied:  # other code, or another experiment: its numbers would say nothing about these
        return Verification(tuple(differences), counts)
    try:
        results = analyse(config, layout)
    except RevlensError as error:
        return Verification(
            (*differences, Difference(str(layout.results), f"cannot be computed again: {error}")), counts
        )
    compared = compare_results(layout.results, results, assess_all(results), provenance(config))
    return Verification(tuple(differences), counts, results).and_also(compared)


def compare_results(
    folder: Path, tables: Tables, claims: list[Claim], made_by: dict[str, Any]
) -> Verification[Any]:
    """A results folder against tables, claims and provenance that were computed again."""
    compared = {name: tables[name] for name in tables.described}
    differences = [
        d
        for name, table in compared.items()
        for d in _of_table(table, folder / f"{name}.parquet", tables.verb)
    ]
    differences += _of_json(
        {claim["key"]: claim for claim in to_records(claims)}, folder / "claims.json", tables.verb
    )
    differences += _of_json(json.loads(json.dumps(made_by)), folder / "provenance.json", tables.verb)
    counts = {
        "tables": len(compared),
        "cells": sum(table.size for table in compared.values()),
        "claims": len(claims),
    }
    return Verification(tuple(differences), counts)


def _of_configuration(config: ExperimentConfig, layout: Layout) -> Iterator[Difference]:
    if layout.config.read_bytes() != (json.dumps(config_json(config), indent=2) + "\n").encode():
        yield Difference(str(layout.config), "is not as it was written")
    if problem := key_problem(config, layout):
        yield Difference("key", problem)


def compare_files(*tops: Path) -> tuple[int, list[Difference]]:
    """Every file below some folders against its checksum, but activations, which have checksums of their own; and how many there are."""
    found = [path for top in tops for path in sorted(top.rglob("*")) if path.is_file()]
    files = [
        path
        for path in found
        if path.parent.name != "activations" and path.name != LOCK and not _is_scratch(path)
    ]
    differences: list[Difference] = []
    for folder in dict.fromkeys(path.parent for path in files):
        differences += [Difference("checksum", problem) for problem in damages(folder)]
        listed = (folder / SUMS).read_text(errors="replace") if (folder / SUMS).is_file() else ""
        names = {line[66:] for line in listed.split("\n")}
        differences += [
            Difference(
                str(path), f"is not in {SUMS} beside it: revlens did not write it, or the list has changed"
            )
            for path in files
            if path.parent == folder and path.name != SUMS and path.name not in names
        ]
    return len(files), differences


def _is_scratch(path: Path) -> bool:
    return any(part.startswith(SCRATCH) for part in path.parts)


def _of_activations(config: ExperimentConfig, layout: Layout) -> tuple[int, list[Difference]]:
    folders = [layout.activations(seed, arm) for seed in config.seeds for arm in config.arms]
    differences = []
    for folder in folders:
        try:
            Activations.open(folder).verify()
        except ResultsError as error:
            differences.append(Difference("activations", str(error)))
    return len(folders), differences


def _of_table(computed: pd.DataFrame, path: Path, verb: str) -> Iterator[Difference]:
    try:
        stored = pd.read_parquet(path)
    except FileNotFoundError:
        yield Difference(str(path), f"is missing; run `revlens {verb}`")
        return
    except (OSError, ValueError, ArrowException) as error:
        yield Difference(str(path), f"cannot be read: {error}")
        return
    if list(stored.columns) != list(computed.columns) or len(stored) != len(computed):
        yield Difference(
            str(path),
            f"stored {len(stored)} rows of {list(stored.columns)}, recomputed {len(computed)} of {list(computed.columns)}",
        )
        return
    for column in computed.columns:
        ours, theirs = computed[column], stored[column]
        unequal = ~((ours == theirs) | (ours.isna() & theirs.isna()))
        for row in computed.index[unequal]:
            yield Difference(
                f"{path}, row {row} ({_row_name(computed.loc[row])}), column {column}",
                f"stored {_plain(theirs[row])!r}, recomputed {_plain(ours[row])!r}",
            )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _row_name(row: pd.Series) -> str:
    return ", ".join(f"{name} {row[name]}" for name in _NAMES if name in row.index)


def _of_json(computed: Mapping[str, Any], path: Path, verb: str) -> Iterator[Difference]:
    try:
        stored = json.loads(path.read_text())
        if isinstance(stored, list):  # claims
            stored = {claim["key"]: claim for claim in stored}
        stored_values, computed_values = dict(_leaves(stored)), dict(_leaves(computed))
    except FileNotFoundError:
        yield Difference(str(path), f"is missing; run `revlens {verb}`")
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Difference(str(path), f"cannot be read: {error!r}")
        return
    for field in dict.fromkeys([*computed_values, *stored_values]):
        theirs, ours = stored_values.get(field, "nothing"), computed_values.get(field, "nothing")
        if theirs != ours:
            yield Difference(f"{path}, {field}", f"stored {theirs!r}, recomputed {ours!r}")


def _leaves(value: Any, place: str = "") -> Iterable[tuple[str, Any]]:
    """Every number and text in nested tables and lists, by the way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{i}]")
    else:
        yield place, value
