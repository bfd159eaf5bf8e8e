"""An audit of an output folder: every byte against its checksum, every table and claim against what it was computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from revlens.activations import Activations
from revlens.atomic import SCRATCH
from revlens.checksums import SUMS, damages
from revlens.errors import ResultsError, RevlensError
from revlens.experiment.claims import to_records
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.layout import Layout
from revlens.experiment.pipeline import assess_all, key_problem
from revlens.experiment.plain import to_plain
from revlens.experiment.provenance import provenance
from revlens.experiment.results import TABLES, Results, analyse
from revlens.locks import LOCK

#: Columns that say which row of a table it is.
_NAMES = ("seed", "arm", "step", "layer", "pair", "component", "position", "subject", "site", "action", "direction", "draw", "split")


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
class Verification:
    """What an audit found.

    Attributes:
        differences: everything that is not as it should be.
        counts: how many of what were compared.
        results: the recomputed tables; None if they could not be computed.
    """

    differences: tuple[Difference, ...]
    counts: Mapping[str, int]
    results: Results | None = None

    def and_also(self, other: Verification) -> Verification:
        """Both together."""
        return Verification(self.differences + other.differences, {**self.counts, **other.counts}, self.results)

    def summary(self) -> str:
        """Counts, in a line."""
        compared = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        return f"Compared: {compared}. Differences: {len(self.differences) or 'none'}."


def verify(out: Path) -> Verification:
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
    n_files, damaged = _of_files(layout)
    differences += damaged
    n_shards, damaged = _of_activations(config, layout)
    differences += damaged
    counts = {"files": n_files + 2, "activation folders": n_shards}
    if not tied:  # other code, or another experiment: its numbers would say nothing about these
        return Verification(tuple(differences), counts)
    try:
        results = analyse(config, layout)
    except RevlensError as error:
        return Verification((*differences, Difference(str(layout.results), f"cannot be computed again: {error}")), counts)
    claims = to_records(assess_all(results))
    differences += [difference for name in TABLES for difference in _of_table(results[name], layout.results / f"{name}.parquet")]
    differences += _of_json({claim["key"]: claim for claim in claims}, layout.results / "claims.json")
    differences += _of_json(json.loads(json.dumps(provenance(config))), layout.results / "provenance.json")
    counts |= {"tables": len(TABLES), "cells": sum(results[name].size for name in TABLES), "claims": len(claims)}
    return Verification(tuple(differences), counts, results)


def _of_configuration(config: ExperimentConfig, layout: Layout) -> Iterator[Difference]:
    if layout.config.read_bytes() != (json.dumps(to_plain(config), indent=2) + "\n").encode():
        yield Difference(str(layout.config), "is not as it was written")
    if problem := key_problem(config, layout):
        yield Difference("key", problem)


def _of_files(layout: Layout) -> tuple[int, list[Difference]]:
    """The report, and every file below runs, results and figures but activations, which have checksums of their own."""
    found = [path for top in (layout.out / "runs", layout.results, layout.figures) for path in sorted(top.rglob("*")) if path.is_file()]
    files = [path for path in found if path.parent.name != "activations" and path.name != LOCK and not _is_scratch(path)]
    differences: list[Difference] = []
    for folder in dict.fromkeys(path.parent for path in files):
        differences += [Difference("checksum", problem) for problem in damages(folder)]
        listed = (folder / SUMS).read_text(errors="replace") if (folder / SUMS).is_file() else ""
        names = {line[66:] for line in listed.split("\n")}
        differences += [
            Difference(str(path), f"is not in {SUMS} beside it: revlens did not write it, or the list has changed")
            for path in files
            if path.parent == folder and path.name != SUMS and path.name not in names
        ]
    if layout.report.is_file():
        differences += [Difference("checksum", problem) for problem in damages(layout.out)]
    return len(files) + layout.report.is_file(), differences


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


def _of_table(computed: pd.DataFrame, path: Path) -> Iterator[Difference]:
    try:
        stored = pd.read_parquet(path)
    except FileNotFoundError:
        yield Difference(str(path), "is missing; run `revlens analyse`")
        return
    except (OSError, ValueError, ArrowException) as error:
        yield Difference(str(path), f"cannot be read: {error}")
        return
    if list(stored.columns) != list(computed.columns) or len(stored) != len(computed):
        yield Difference(
            str(path), f"stored {len(stored)} rows of {list(stored.columns)}, recomputed {len(computed)} of {list(computed.columns)}"
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


def _of_json(computed: Mapping[str, Any], path: Path) -> Iterator[Difference]:
    try:
        stored = json.loads(path.read_text())
        if isinstance(stored, list):  # claims
            stored = {claim["key"]: claim for claim in stored}
        stored_values, computed_values = dict(_leaves(stored)), dict(_leaves(computed))
    except FileNotFoundError:
        yield Difference(str(path), "is missing; run `revlens analyse`")
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
