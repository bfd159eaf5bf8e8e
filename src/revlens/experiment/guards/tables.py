"""A study's tables, from the records of its fine-tunes: a row per fine-tune and whatever the columns say,
nothing averaged.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import reply_rows
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import other_v_rev, own_v_rev
from revlens.experiment.guards.early_warning import early_warning
from revlens.experiment.standard import start_rows
from revlens.results import Layout, Tables
from revlens.storage import intact

#: Every table of a study and what a row of it is. Columns are described in docs/results-schema.md.
TABLES = {
    "behaviour": "a fine-tune at one of its marks: behaviour, task cost and the reading there",
    "readings": "a fine-tune at a step: motion along v_rev, divergence and loss",
    "replies": "what the model of a fine-tune replied to a probe prompt at one of its marks, and the outcome",
    "routes": "the last model of a grid fine-tune under a clamp at the last prompt token: behaviour",
    "route_replies": "what such a model replied to a probe prompt under such a clamp, and the outcome",
    "directions": "v_rev of a seed at a layer from other checkpoints: cosine with its own",
    "early_warning": "a predictor at an early step: how well it predicts harm at the end",
    "starts": "a seed's aligned model: refusal, over-refusal and relative gap to the reference",
    "failures": "a fine-tune that stopped because numbers were no longer finite, and what it said",
}
#: What tells one fine-tune from another.
ABOUT = ("part", "seed", "method", "strength", "until", "task", "rate", "direction")
#: What tells one clamp of a route from another.
PLACE = ("model", "clamped", "place", "draw")

#: Tables of measures, and the tables of the replies behind them.
JUDGED = {"behaviour": "replies", "routes": "route_replies"}


class GuardTables(Tables):
    """The tables of one study, by name (see `TABLES`)."""

    described = TABLES
    verb = "analyse"

    def part(self, name: str, part: str) -> pd.DataFrame:
        """The rows of a table that belong to one part of the study, see
        `revlens.experiment.guards.plan.PARTS`.
        """
        table = self[name]
        return table[table["part"] == part]


def tabulate(config: ExperimentConfig, layout: Layout) -> GuardTables:
    """All tables, from the records that the fine-tunes left.

    Raises:
        ResultsError: if a fine-tune has no record, or one of another fine-tune, or a file is damaged.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    probes = config.subject.material().probes()
    replies: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES if name.endswith("replies")}
    for fine_tune in config.fine_tunes():
        record = _record(layout, fine_tune)
        about = {column: getattr(fine_tune, column) for column in ABOUT}
        readings = {reading["step"]: reading for reading in record["readings"]}
        rows["readings"] += [about | reading for reading in record["readings"]]
        rows["behaviour"] += [
            about | readings[judged["step"]] | judged["measures"] for judged in record["behaviour"]
        ]
        rows["routes"] += [
            about | {name: place[name] for name in PLACE} | place["measures"] for place in record["route"]
        ]
        for table, records, names in (
            ("replies", record["behaviour"], ("step",)),
            ("route_replies", record["route"], PLACE),
        ):
            if records:
                replies[table].append(reply_rows(records, probes, *names).assign(**about))
        if record["failed"] is not None:
            rows["failures"].append(about | {"message": record["failed"]})
    for seed in config.seeds:
        rows["starts"] += start_rows(layout, seed).to_dict("records")
        own = own_v_rev(layout, seed)
        for source in config.plan.directions:
            cosines = (own.unit * other_v_rev(layout, seed, source).unit).sum(-1).tolist()
            rows["directions"] += [
                {"seed": seed, "source": source, "layer": layer, "cosine": cosine}
                for layer, cosine in zip(own.layers, cosines, strict=True)
            ]
    tables = {
        name: _table(name, rows[name]) for name in TABLES if name != "early_warning" and name not in replies
    }
    tables |= {name: _typed(pd.concat(parts, ignore_index=True)) for name, parts in replies.items()}
    return with_derived(GuardTables(tables))


def with_derived(tables: GuardTables) -> GuardTables:
    """The tables and those that follow from them."""
    behaviour, readings = (tables.part(name, "early") for name in ("behaviour", "readings"))
    return GuardTables(tables.tables | {"early_warning": early_warning(behaviour, readings)})


def _record(layout: Layout, fine_tune: FineTune) -> dict[str, Any]:
    path = intact(layout.record(fine_tune.seed, fine_tune.label), "finetune")
    if fine_tune.leaves_clamp_mean:  # no table tells that it has gone
        intact(layout.clamp_mean(fine_tune.seed, fine_tune.label), "finetune")
    record: dict[str, Any] = json.loads(path.read_text())
    if record["fine_tune"] != json.loads(json.dumps(asdict(fine_tune))):
        raise ResultsError(
            f"{path} is the record of another fine-tune; delete it and run `revlens finetune` again."
        )
    return record


def _table(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    if not rows:
        columns = [*ABOUT, "message"] if name == "failures" else ["seed", "source", "layer", "cosine"]
        return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
    return _typed(pd.DataFrame(rows))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """With floats where a column may hold nothing but None."""
    return table.astype({column: float for column in ("strength", "until", "alignment") if column in table})


load = GuardTables.load
