"""Running a study: its fine-tunes as tasks of a sweep, then tables and claims."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from rich.console import Console

from revlens.atomic import write_json, write_text
from revlens.errors import ResultsError
from revlens.experiment import Claim, provenance
from revlens.experiment.claims import save as save_claims
from revlens.experiment.config import CONFIG_TYPES
from revlens.experiment.layout import needed
from revlens.experiment.plain import read_plain, to_plain
from revlens.experiment.run import default_backend, prepare, progress_bars
from revlens.experiment.stages import n_ticks, run_start
from revlens.study.carry_out import carry_out, locate_elsewhere
from revlens.study.claims import assess_study
from revlens.study.config import StudyConfig
from revlens.study.layout import StudyLayout
from revlens.study.plan import Run, plan
from revlens.study.tables import StudyTables, tabulate
from revlens.sweeps import Backend, Resources, Task, run_tasks


def run_study(
    config: StudyConfig, out: Path, *, on: Backend | None = None, resources: Resources | None = None, console: Console | None = None
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
    described = json.dumps(to_plain(config), indent=2) + "\n"
    if not layout.config.is_file():
        write_text(layout.config, described)
    elif layout.config.read_text() != described:
        raise ResultsError(f"{layout.root} holds a study with another configuration; delete it, or choose another --out.")
    with progress_bars(_totals(config), console) as on_tick:
        run_tasks(
            _tasks(config, StudyLayout(out.resolve()), resources or Resources()),
            on=on or default_backend(config.experiment),
            on_tick=on_tick,
        )


def _tasks(config: StudyConfig, layout: StudyLayout, resources: Resources) -> list[Task]:
    """Starts, then the grid's baselines and directions from elsewhere, then every other run."""
    seeds, runs = config.experiment.seeds, plan(config)
    starts = [Task(f"seed {seed}", run_start, (("history",), config.experiment, layout.out, seed), resources=resources) for seed in seeds]
    baselines = {run.seed: run for run in runs if run.part == "grid" and run.method == "baseline"}
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
        if run.part == "grid" and run != baselines[run.seed]:
            return (baselines[run.seed].name,)  # it leaves the anchor
        return (f"seed {run.seed}",)

    carried_out = [Task(run.name, carry_out, (config, layout, run), after=after(run), resources=resources) for run in runs]
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
        ResultsError: if the folder holds no study, or a run is missing.
    """
    layout = StudyLayout(out)
    config = load_config(layout)
    tables = tabulate(config, layout)
    claims = assess_study(config, tables)
    tables.save(layout.results)
    save_claims(claims, layout.results / "claims.json")
    write_json(layout.results / "provenance.json", provenance(config.experiment) | {"study": to_plain(config)})
    return config, tables, claims


def load_config(layout: StudyLayout) -> StudyConfig:
    """The configuration of the study in a folder.

    Raises:
        ResultsError: if there is none, or it is no study of this version of revlens.
    """
    return read_plain(needed(layout.config, "study"), StudyConfig, (StudyConfig, *CONFIG_TYPES), "study")
