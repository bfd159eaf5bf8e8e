"""The arms' tables, from captures and behaviour: one row per run and step, nothing averaged over runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from revlens.activations import MANIFEST, Activations
from revlens.direction import Drift, ReversionDirection, drift, locate
from revlens.experiment.arms.association import association_table
from revlens.experiment.arms.causality import TABLES as CAUSAL_TABLES
from revlens.experiment.arms.drift_parts import along_rows, drift_parts, grid, reference_part
from revlens.experiment.arms.null_rows import direction_rows, null_rows
from revlens.experiment.arms.plan import REFERENCE, Arms
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import measure_rows, reply_rows
from revlens.experiment.guarded import own_v_rev
from revlens.results import Layout, Tables
from revlens.storage import intact, needed

#: Every table of a results folder and what a row of it is. Columns are described in docs/results-schema.md.
TABLES = {
    "direction": "v_rev of a seed at a layer: lengths of gap and reference, split-half reliability, spread",
    "alignment": "drift of a seed's arm at a step and layer along v_rev, cross-fitted and naive",
    "drift_parts": "a part of the drift of a seed's arm at a step and layer, along v_rev",
    "nulls": "alignment and fraction of a seed's arm at a step, means over layers, against one null's p99",
    "controls": "cosine of the same drift with a direction that should not attract it, at a layer",
    "behaviour": "harmfulness, over-refusal and task cost of a seed's arm at a step",
    "association": "how closely an outcome goes with one predictor, over runs, arms and steps",
    "starts": "a seed's aligned model: refusal, over-refusal and relative gap to the reference",
    "training": "task loss of a seed's arm at an update",
    "phases": "the same measures for a seed's reference and aligned models",
    "replies": "what a seed's arm replied to a probe prompt at a step, and the outcome",
    "phase_replies": "the same of a seed's reference and aligned models",
    "patching": "a patch between a seed's checkpoints at one cell: share of the donor's metric recovered",
    "interventions": "engaging-minus-refusal of a seed's model under an action on one direction at a site",
    "intervened": "behaviour of a seed's model under an action on one direction at a site",
    "intervened_replies": "what a seed's model replied to a probe prompt under such an action",
    "readout": "v_rev of a seed and layer through the unembedding: engaging-minus-refusal, and its null",
    "readout_tokens": "the tokens that v_rev of a seed and layer promotes and demotes most",
}

#: Tables of measures, and the tables of the replies behind them.
JUDGED = {"behaviour": "replies", "phases": "phase_replies", "intervened": "intervened_replies"}


#: Tables that follow from others.
_DERIVED = ("association", "starts")


class ArmTables(Tables):
    """The tables of one experiment, by name (see `TABLES`)."""

    described = TABLES
    verb = "analyse"

    def over_layers(self, column: str = "alignment", *, estimate: str = "cross-fitted") -> pd.DataFrame:
        """A column of the alignment table averaged over layers: one row per arm, seed and step, arms in their
        order.
        """
        table = self["alignment"]
        rows = table[table["estimate"] == estimate]
        # A missing value stays missing, so that no layer is left out silently.
        return rows.groupby(["arm", "seed", "step"], as_index=False, sort=False)[column].mean(skipna=False)


def tabulate(config: ExperimentConfig, layout: Layout) -> ArmTables:
    """All tables, from what the stages left on disk.

    Raises:
        ResultsError: if a stage has not been run for some seed and arm, or a file that it left is damaged.
    """
    plan = config.plan
    assert isinstance(plan, Arms)
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES if name not in _DERIVED}
    directions = {seed: own_v_rev(layout, seed) for seed in config.seeds}
    material = config.subject.material()
    probes, strata = material.probes(), material.strata()
    for seed in config.seeds:
        start = _read(layout.start_behaviour(seed), "history")
        rows["phases"].append(measure_rows(start, "phase").assign(seed=seed))
        rows["phase_replies"].append(reply_rows(start, probes, "phase").assign(seed=seed))
        # Every arm starts at the aligned model: its record is step 0 of each.
        step_0 = start[1] | {"step": 0, "kl": 0.0}
        foreign = foreign_directions(config, directions, seed)
        parts = rows["drift_parts"]
        if config.subject.benign is not None:
            of_reference = _activations(layout.activations(seed, REFERENCE))
            parts.append(reference_part(of_reference, directions[seed]).assign(seed=seed))
        for arm in plan.arms_of(config):
            judged = [step_0, *_read(layout.behaviour(seed, arm), "behaviour")]
            activations = _activations(layout.activations(seed, arm))
            along_v_rev = drift(activations, directions[seed])
            naive = drift(activations, locate(activations, "drift"), "drift", naive=True)
            tables = {
                "drift_parts": drift_parts(activations, directions[seed], along_v_rev),
                "alignment": pd.concat(
                    [_drift_rows(along_v_rev, "cross-fitted"), _drift_rows(naive, "naive")]
                ),
                "nulls": null_rows(
                    activations,
                    along_v_rev,
                    directions[seed],
                    strata=strata.get("direction", ()),
                    n_draws=plan.n_null_draws,
                    seed=seed,
                ),
                "controls": _control_rows(activations, along_v_rev, foreign),
                "behaviour": measure_rows(judged, "step", "kl"),
                "replies": reply_rows(judged, probes, "step"),
                "training": _training_rows(layout.losses(seed, arm))
                if config.subject.benign
                else _NO_TRAINING,
            }
            for name, table in tables.items():
                rows[name].append(table.assign(seed=seed, arm=arm))
        rows["direction"].append(direction_rows(activations, directions[seed]).assign(seed=seed))
        for name in CAUSAL_TABLES if seed in plan.causal_seeds(config) else ():
            rows[name].append(_causal_rows(layout.causal(seed) / f"{name}.parquet").assign(seed=seed))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items()}
    return with_derived(ArmTables(tables))


def foreign_directions(
    config: ExperimentConfig, directions: Mapping[int, ReversionDirection], seed: int
) -> list[ReversionDirection]:
    """v_rev of every other history; none where all seeds share one start."""
    if not config.subject.varies_start:
        return []
    return [directions[other] for other in config.seeds if other != seed]


def with_derived(tables: ArmTables) -> ArmTables:
    """The tables and those that follow from them."""
    keys = ["arm", "seed", "step"]
    drift_by_step = tables.over_layers("alignment")
    for column in ("fraction", "drift_norm"):
        drift_by_step = drift_by_step.merge(tables.over_layers(column), on=keys)
    association = association_table(drift_by_step, tables["behaviour"])
    phases, direction = tables["phases"], tables["direction"]
    starts = phases.loc[phases["phase"] == "aligned", ["seed", "refusal", "over_refusal"]]
    relative = direction["gap"] / direction["reference_norm"]
    gaps = relative.groupby(direction["seed"]).mean().rename("relative_gap").reset_index()
    return ArmTables(tables.tables | {"association": association, "starts": starts.merge(gaps, on="seed")})


def _drift_rows(motion: Drift, estimate: str) -> pd.DataFrame:
    table = along_rows(motion)
    return table.assign(drift_norm=motion.vectors.norm(dim=-1).flatten().numpy(), estimate=estimate)


def _control_rows(activations: Activations, motion: Drift, foreign: list[ReversionDirection]) -> pd.DataFrame:
    harmless = locate(activations, "harmless").unit
    unit = motion.vectors / motion.vectors.norm(dim=-1, keepdim=True)
    cosines = {"harmless": torch.einsum("sld,ld->sl", unit, harmless)}
    if foreign:
        others = torch.stack([v_rev.unit for v_rev in foreign])
        cosines["foreign"] = torch.einsum("sld,fld->slf", unit, others).mean(-1)
    return pd.concat(
        [grid(motion, {"cosine": values.numpy()}).assign(control=name) for name, values in cosines.items()]
    )


_NO_TRAINING = pd.DataFrame(
    {"step": pd.Series(dtype=int), "loss": pd.Series(dtype=float)}
)  # the checkpoints were given


def _training_rows(path: Path) -> pd.DataFrame:
    losses = _read(path, "finetune")
    return pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})


def _activations(root: Path) -> Activations:
    needed(root / MANIFEST, "capture")
    activations = Activations.open(root)
    for path in activations.missing():
        needed(path, "capture")
    return activations


def _causal_rows(path: Path) -> pd.DataFrame:
    return pd.read_parquet(intact(path, "causal"))


def _read(path: Path, stage: str) -> list[Any]:
    return json.loads(intact(path, stage).read_text())


load = ArmTables.load
