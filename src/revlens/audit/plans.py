"""How the output of each plan is read and computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revlens.audit.difference import Verification, missing
from revlens.audit.files import compare_activations
from revlens.errors import ResultsError
from revlens.experiment import Claim, ExperimentConfig, analyse, assess_all, provenance
from revlens.results import Layout, Tables
from revlens.study import (
    StudyConfig,
    StudyLayout,
    assess_study,
    load_config,
    made_by,
    plan,
    tabulate,
)


@dataclass(frozen=True)
class Plan:
    """What an audit must know of a plan.

    Attributes:
        is_in: whether a folder holds an output of it.
        layout: of a folder.
        load: the configuration in a folder.
        files: files, and folders all of whose files have checksums.
        left_by_runs: compares what the runs left beside files with checksums.
        tabulate: computes the tables.
        assess: computes the claims.
        provenance: what made the results.
        drawn_by: the verb of `revlens` that draws figures and report.
    """

    is_in: Callable[[Path], bool]
    layout: Callable[[Path], Any]
    load: Callable[[Path], Any]
    files: Callable[[Any], tuple[Path, ...]]
    left_by_runs: Callable[[Any, Any], Verification]
    tabulate: Callable[[Any, Any], Tables]
    assess: Callable[[Any, Any], list[Claim]]
    provenance: Callable[[Any], dict[str, Any]]
    drawn_by: str


def _load_study(out: Path) -> StudyConfig:
    layout = StudyLayout(out)
    config = load_config(layout)
    if config.experiment != ExperimentConfig.load(Layout(out).config):
        raise ResultsError(f"{layout.config} is not a study of the experiment in {out}.")
    return config


def _activations(config: ExperimentConfig, layout: Layout) -> Verification:
    folders = [layout.activations(seed, arm) for seed in config.seeds for arm in config.arms]
    return compare_activations(folders)


def _records(config: StudyConfig, layout: StudyLayout) -> Verification:
    anchors = [layout.anchor(seed) for seed in config.experiment.seeds]  # no table needs them
    gone = tuple(missing(path, "study") for path in anchors if not path.is_file())
    return Verification(gone, {"study records": len(plan(config))})


#: By the name of the plan, in the order in which they are run.
PLANS: Mapping[str, Plan] = {
    "arms": Plan(
        # a study needs no more of its experiment than v_rev
        is_in=lambda out: Layout(out).results.is_dir() or not StudyLayout(out).root.is_dir(),
        layout=Layout,
        load=lambda out: ExperimentConfig.load(Layout(out).config),
        files=lambda layout: (layout.out / "runs", layout.results, layout.figures, layout.report),
        left_by_runs=_activations,
        tabulate=analyse,
        assess=lambda config, tables: assess_all(tables),
        provenance=provenance,
        drawn_by="report",
    ),
    "guards": Plan(
        is_in=lambda out: StudyLayout(out).root.is_dir(),
        layout=StudyLayout,
        load=_load_study,
        files=lambda layout: (layout.root,),
        left_by_runs=_records,
        tabulate=tabulate,
        assess=assess_study,
        provenance=made_by,
        drawn_by="study",
    ),
}
