"""Results on disk as DataFrames, with what they claim and what made them: for notebooks and own figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from revlens.errors import FileError, ResultsError
from revlens.experiment.arms.plan import Arms
from revlens.experiment.arms.tables import ArmTables
from revlens.experiment.guards.plan import Guards
from revlens.experiment.guards.tables import GuardTables
from revlens.results import Layout, Tables
from revlens.storage import damage, damages, read_json

#: By the name of the plan's class, which provenance.json holds.
_TABLES: Mapping[str, type[Tables]] = {Arms.__name__: ArmTables, Guards.__name__: GuardTables}
_AGAIN = "`revlens analyse --out DIR` makes results anew, DIR being the output of finished stages."


@dataclass(frozen=True, repr=False)
class Results:
    """The results of one experiment, whose files are as they were written.

    ``results["alignment"]`` is a table; docs/results-schema.md describes every table and column.

    Attributes:
        folder: where they were read.
        tables: all tables, as the figures take them: `ArmTables` of ``revlens reproduce``, `GuardTables` of
            ``revlens study``.
        claims: a row per claim, in the order of the report: ``key, headline, statement, paper, paper_value``,
            our estimate ``value, low, high, n, p``, the asserted range ``above, below`` and its ``rule``,
            ``verdict`` and ``holds_paper``.
        provenance: what made them: configuration, seeds, versions, processor.
    """

    folder: Path
    tables: Tables
    claims: pd.DataFrame
    provenance: Mapping[str, Any]

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self.tables.tables:
            raise ResultsError(f"No table {name!r} in {self.folder}; it has {', '.join(self.tables.tables)}.")
        return self.tables[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the tables."""
        return iter(self.tables.tables)

    def __repr__(self) -> str:
        runs = len(self.provenance["seeds"])
        return f"Results of {self.folder}: {runs} run(s), {len(self.claims)} claims; {', '.join(self)}"

    def contents(self) -> pd.DataFrame:
        """The tables at hand: name, what a row is, number of rows, columns."""
        return pd.DataFrame(
            {
                "table": name,
                "a row is": self.tables.described.get(name, ""),
                "rows": len(self[name]),
                "columns": ", ".join(self[name].columns),
            }
            for name in self
        )


def load_results(folder: str | Path) -> Results:
    """Read the results of an experiment, after a check of every file against its checksum.

    Args:
        folder: an output of ``revlens reproduce`` or ``revlens study``, or a folder of results alone, such as
            ``rejudged/JUDGE`` in an output.

    Raises:
        ResultsError: if there are no results, a file is missing, damaged or not in the list of checksums, or
            they are of a version of revlens that wrote them otherwise.
    """
    of_output = Layout(Path(folder)).results
    path = of_output if of_output.is_dir() else Path(folder)
    for name in ("provenance.json", "claims.json"):
        if not (path / name).is_file():
            raise ResultsError(f"No results in {path} (no {name}). {_AGAIN}")
    files = sorted(path.glob("*.parquet"))
    problems = damages(path) or [problem for file in files if (problem := damage(file))]
    if problems:
        raise ResultsError(f"{problems[0]} Restore the folder. {_AGAIN}")
    try:
        provenance, claims = read_json(path / "provenance.json"), read_json(path / "claims.json")
        kind = _TABLES[provenance["config"]["plan"]["type"]]
        tables = {file.stem: pd.read_parquet(file) for file in sorted(files, key=_as_described(kind))}
        return Results(path, kind(tables), _claims_table(claims), provenance)
    except (FileError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{path} is of a version of revlens that wrote results otherwise ({error!r}). {_AGAIN}"
        ) from error


def _as_described(kind: type[Tables]) -> Callable[[Path], int]:
    """Where in the description of the tables a file's table comes; one that is not in it comes last."""
    order = list(kind.described)
    return lambda file: order.index(file.stem) if file.stem in order else len(order)


def _claims_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            **{name: record[name] for name in ("key", "headline", "statement", "paper", "paper_value")},
            **record["estimate"],
            "above": record["low"],
            "below": record["high"],
            **{name: record[name] for name in ("rule", "verdict", "holds_paper")},
        }
        for record in records
    ]
    numbers = dict.fromkeys(("paper_value", "p", "above", "below"), float)
    return pd.DataFrame(rows).astype(numbers | {"holds_paper": "boolean"})
