"""One experiment in several worlds, read as one: the runs of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.loaded import load_results
from revlens.experiment.plans import PLANS
from revlens.organism import OrganismConfig
from revlens.results import Layout, Tables


def pool(outs: Sequence[Path]) -> tuple[ExperimentConfig, Tables]:
    """The analysed outputs of one experiment on several worlds, with seeds numbered through.

    Intervals over the pooled runs say what holds over worlds as well as over seeds.

    Args:
        outs: folders with a config.json, as `load_results` reads them, whose configurations differ in the
            seed of the world and in their runs.

    Returns:
        The configuration of the first with the seeds of all, and tables of all runs.

    Raises:
        ResultsError: if there is no folder, a world is there twice, the configurations differ in anything
            else, or a table is missing or damaged.
    """
    configs = [ExperimentConfig.load(Layout(out).config) for out in outs]
    if not configs:
        raise ResultsError("No output to pool; name the folder of each.")
    first = configs[0]
    worlds = [_world_seed(config, out) for config, out in zip(configs, outs, strict=True)]
    if len(set(worlds)) != len(worlds):
        raise ResultsError(f"Worlds {worlds} must be distinct: runs of one world and seed are the same runs.")
    for config, out in zip(configs, outs, strict=True):
        if _without_world_and_seeds(config) != _without_world_and_seeds(first):
            raise ResultsError(f"{out} differs from {outs[0]} in more than its world and its seeds.")

    parts: dict[str, list[pd.DataFrame]] = {}
    loaded = [load_results(out).tables for out in outs]
    n_before = 0
    for config, tables in zip(configs, loaded, strict=True):
        place = {seed: n_before + i for i, seed in enumerate(config.seeds)}
        for name, table in tables.tables.items():
            renamed = table.assign(seed=table["seed"].map(place)) if "seed" in table else table
            parts.setdefault(name, []).append(renamed)
        n_before += len(config.seeds)
    joined = type(loaded[0])({name: pd.concat(of, ignore_index=True) for name, of in parts.items()})
    pooled: Tables = PLANS[first.plan.name].tables.with_derived(joined)
    return replace(first, seeds=tuple(range(n_before))), pooled


def _world_seed(config: ExperimentConfig, out: Path) -> int:
    if not isinstance(config.subject, OrganismConfig):
        raise ResultsError(f"{out} is no experiment on an organism, and has no other world.")
    return config.subject.world.seed


def _without_world_and_seeds(config: ExperimentConfig) -> ExperimentConfig:
    assert isinstance(config.subject, OrganismConfig)
    world = replace(config.subject.world, seed=0)
    return replace(config, seeds=(0,), subject=replace(config.subject, world=world))
