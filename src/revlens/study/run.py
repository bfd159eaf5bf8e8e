"""Running a study: its fine-tunes as tasks of a sweep, then tables and claims."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from revlens.errors import ResultsError
from revlens.experiment import (
    Claim,
    default_backend,
    n_ticks,
    prepare,
    progress_bars,
    provenance,
    run_start,
    save_results,
)
from revlens.results import config_json, read_config
from revlens.storage import intact, write_listed_json
from revlens.study.carry_out import carry_out, locate_elsewhere
from revlens.study.claims import assess_study
from revlens.study.config import StudyConfig
from revlens.study.layout import StudyLayout
from revlens.study.plan import Run, plan
from revlens.study.tables import StudyTables, tabulate
from revlens.sweeps import Backend, Resources, Task, run_tasks


def run_study(
    config: StudyConfig,
    out: Path,
    *,
    on: Backend | None = None,
    resources: Resources | None = None,
    console: Console | None = None,
) -> None:
    """Carry out every run of a study in the folder of its experiment; what is on disk is not run again.

    Args:
        config: the study.
        out: the experiment's folder, made if it is not there; its reference and aligned models are trained if they are not.
        on: where runs go; see `revlens.experiment.run.default_backend` if None.
        resources: of each run, on a cluster.
        console: for progress bars.

    Raises:
        ResultsError: if the folder belongs to another experiment, or to another study of it.
        RevlensError: whatever a run raises.
    """
    prepare(config.experiment, out)
    layout = StudyLayout(out)
    if not layout.config.is_file():
        write_listed_json(layout.config, config_json(config))
    elif load_config(layout) != config:
        raise ResultsError(
            f"{layout.root} holds a study with another configuration; delete it, or choose another --out."
        )
    with progress_bars(_totals(config), console) as on_tick:
        run_tasks(
            _tasks(config, StudyLayout(out.resolve()), resources or Resources()),
            on=on or default_backend(config.experiment),
            on_tick=on_tick,
        )


def _tasks(config: StudyConfig, layout: StudyLayout, resources: Resources) -> list[Task]:
    """Starts, then the grid's baselines and directions from elsewhere, then every other run."""
    seeds, runs = config.experiment.seeds, plan(config)
    starts = [
        Task(
            f"seed {seed}",
            run_start,
            (("history",), config.experiment, layout.out, seed),
            resources=resources,
        )
        for seed in seeds
    ]
    baselines = {run.seed: run for run in runs if run.leaves_anchor}
    located = [
        Task(
            f"v_rev of seed {seed}, {source}",
            locate_elsewhere,
            (config, layout, seed, source),
            after=tuple(f"seed {other}" for other in seeds) if source == "other-seed" else (f"seed {seed}",),
            resources=resources,
        )
        for source in config.directions
        for seed in seeds
    ]

    def after(run: Run) -> tuple[str, ...]:
        if run.direction != "own":
            return (f"v_rev of seed {run.seed}, {run.direction}",)
        if run.part == "grid" and not run.leaves_anchor:
            return (baselines[run.seed].name,)
        return (f"seed {run.seed}",)

    carried_out = [
        Task(run.name, carry_out, (config, layout, run), after=after(run), resources=resources)
        for run in runs
    ]
    return [*starts, *located, *carried_out]


def _totals(config: StudyConfig) -> dict[str, int]:
    """How often each label is ticked: starts by updates, parts of the study by updates."""
    totals = Counter({"history": len(config.experiment.seeds) * n_ticks("history", config.experiment)})
    for run in plan(config):
        totals[run.part] += run.steps
    return dict(totals)


def tabulate_and_save(out: Path) -> tuple[StudyConfig, StudyTables, list[Claim]]:
    """Write the tables, claims.json and provenance.json of a study whose runs have all been carried out.

    Raises:
        ResultsError: if the folder holds no study, a run is missing, or a file is damaged.
    """
    layout = StudyLayout(out)
    config = load_config(layout)
    tables = tabulate(config, layout)
    claims = assess_study(config, tables)
    save_results(layout.results, tables, claims, made_by(config))
    return config, tables, claims


def made_by(config: StudyConfig) -> dict[str, Any]:
    """The provenance of a study: that of its experiment, and its own configuration."""
    return provenance(config.experiment) | {"study": config_json(config)}


def load_config(layout: StudyLayout) -> StudyConfig:
    """The configuration of the study in a folder.

    Raises:
        ResultsError: if there is none, it is damaged, or it is no study of this version of revlens.
    """
    return read_config(intact(layout.config, "study"), StudyConfig, "study")
