"""From the records of a study's runs to tables: one row per run and whatever the columns say, nothing averaged over runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from revlens.errors import ResultsError
from revlens.results import Tables, config_json
from revlens.storage import intact
from revlens.study.carry_out import direction_from, own_direction
from revlens.study.config import StudyConfig
from revlens.study.foresight import foreseen
from revlens.study.layout import StudyLayout
from revlens.study.plan import plan

#: Every table of a study and what a row of it is. Columns are described in docs/results-schema.md.
STUDY_TABLES = {
    "behaviour": "a run at one of its marks: behaviour, task cost and the reading there",
    "readings": "a run at a step: motion along v_rev, divergence and loss",
    "carried": "the last model of a grid run under a clamp at the last prompt token: harmfulness",
    "directions": "v_rev of a seed at a layer from other checkpoints: cosine with its own",
    "foreseen": "a predictor at an early step: how well it foretells harm at the end",
    "failures": "a run that stopped because numbers were no longer finite, and what it said",
}
#: What tells one run from another.
RUN_COLUMNS = ["part", "seed", "method", "strength", "guarded", "task", "rate", "direction"]


class StudyTables(Tables):
    """The tables of one study, by name (see `STUDY_TABLES`)."""

    described = STUDY_TABLES
    verb = "study"

    def part(self, name: str, part: str) -> pd.DataFrame:
        """The rows of a table that belong to one part of the study, see `revlens.study.plan.PARTS`."""
        table = self[name]
        return table[table["part"] == part]


def tabulate(config: StudyConfig, layout: StudyLayout) -> StudyTables:
    """All tables, from the records that the runs left.

    Raises:
        ResultsError: if a run has no record, or one of another run, or a file is damaged.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in STUDY_TABLES}
    for run in plan(config):
        path = intact(layout.record(run), "study")
        record = json.loads(path.read_text())
        if record["run"] != config_json(asdict(run)):
            raise ResultsError(
                f"{path} is the record of another run; delete it and run `revlens study` again."
            )
        about = {column: record["run"][column] for column in RUN_COLUMNS}
        readings = {reading["step"]: reading for reading in record["readings"]}
        rows["readings"] += [about | reading for reading in record["readings"]]
        rows["behaviour"] += [
            about | readings[measured["step"]] | measured for measured in record["behaviour"]
        ]
        rows["carried"] += [about | place for place in record["carried"]]
        if record["failed"] is not None:
            rows["failures"].append(about | {"message": record["failed"]})
    for seed in config.experiment.seeds:
        own = own_direction(layout, seed)
        for source in config.directions:
            cosines = (own.unit * direction_from(layout, seed, source).unit).sum(-1).tolist()
            rows["directions"] += [
                {"seed": seed, "source": source, "layer": layer, "cosine": cosine}
                for layer, cosine in zip(own.layers, cosines, strict=True)
            ]
    tables = {name: _table(name, rows[name]) for name in STUDY_TABLES if name != "foreseen"}
    behaviour, readings = (
        tables[name][tables[name]["part"] == "early"] for name in ("behaviour", "readings")
    )
    return StudyTables(tables | {"foreseen": foreseen(behaviour, readings)})


def _table(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    if not rows:
        columns = [*RUN_COLUMNS, "message"] if name == "failures" else ["seed", "source", "layer", "cosine"]
        return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
    table = pd.DataFrame(rows)
    return table.astype({column: float for column in ("strength", "guarded", "alignment") if column in table})
