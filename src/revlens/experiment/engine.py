"""Running the stages of an experiment over its seeds and fine-tunes, as the tasks of a sweep."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from revlens.errors import ConfigError, ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.plans import PLANS, Stage
from revlens.experiment.units import OtherDirection, Start, Unit
from revlens.results import Layout
from revlens.storage import n_launched, write_text
from revlens.sweeps import Backend, Processes, Resources, Task, Tick, progress, run_tasks
from revlens.training import METHODS


def prepare(config: ExperimentConfig, out: Path) -> None:
    """Tie an output folder to a configuration.

    Raises:
        ConfigError, DataError: if the subject's prompts or data cannot be built, or lack what a guard needs;
            nothing is written then.
        ResultsError: if the folder belongs to another configuration, or to other versions of code or
            libraries.
    """
    _check_needs(config)
    layout = Layout(out)
    if layout.config.is_file():
        stored = ExperimentConfig.load(layout.config)
        if stored != config:
            date = stored.template_date
            begun = (
                f" It was begun with template_date = {date!r} of [history]; give that to go on with it."
                if date != config.template_date
                else ""
            )
            raise ResultsError(
                f"{out} holds an experiment with another configuration; choose another --out or delete "
                f"it.{begun}"
            )
        if layout.key.read_text() != config.key():
            raise ResultsError(
                f"{out} was started with other versions of revlens, torch, transformers or tokenizers; "
                "choose another --out or delete it."
            )
        return
    write_text(layout.key, config.key())
    config.save(layout.config)


def _check_needs(config: ExperimentConfig) -> None:
    """Check at once what would stop a fine-tune hours later."""
    material = config.subject.material()
    needing = sorted({f.method for f in config.fine_tunes() if "refusals" in METHODS[f.method].needs})
    if needing and material.refusals(1, config.seeds[0]) is None:
        raise ConfigError(
            f"{', '.join(needing)}: refusals to train on are needed, and this subject has none; leave it out."
        )


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    *,
    stages: tuple[str, ...] | None = None,
    on: Backend | None = None,
    resources: Resources | None = None,
    console: Console | None = None,
) -> None:
    """Run the chosen stages for every seed and fine-tune of the plan; what is on disk is not computed again.

    Args:
        config: the experiment.
        out: its folder; on a cluster, one that every machine sees under this path.
        stages: names of stages; all of the plan's if None.
        on: where tasks go; see `default_backend` if None.
        resources: of each task, on a cluster.
        console: where progress is shown, see `revlens.sweeps.progress`.

    Raises:
        ConfigError: if the plan has no such stage; in one of several processes that were launched together,
            as an experiment starts its own.
        ResultsError: see `prepare`; also if an earlier stage that was not chosen has not been run.
        RevlensError: whatever a stage raises, or the backend; the other tasks are then cancelled.
    """
    if n_launched() > 1:
        raise ConfigError(
            "An experiment starts its own processes: run it as one, with --workers or --ray. accelerate "
            "launch is for scripts of one fine-tune or capture, see docs/scaling.md."
        )
    chosen = _chosen(config, stages)
    prepare(config, out)
    everything = units(config)
    totals = {
        stage.name: sum(stage.module.n_ticks(config, unit) for unit in everything if stage.of in unit.kinds)
        for stage in chosen
    }
    sweep = tasks(config, out.resolve(), stages, resources or Resources())
    with progress(totals, console) as on_tick:
        run_tasks(sweep, on=on or default_backend(config), on_tick=on_tick)


def units(config: ExperimentConfig) -> list[Unit]:
    """What the tasks of an experiment are about, those first that others need."""
    starts = [Start(seed) for seed in config.seeds]
    others = [OtherDirection(seed, source) for source in config.plan.directions for seed in config.seeds]
    return [*starts, *others, *config.fine_tunes()]


def tasks(
    config: ExperimentConfig, out: Path, stages: tuple[str, ...] | None, resources: Resources
) -> list[Task]:
    """One task for each unit, which runs those of the chosen stages that concern it.

    Raises:
        ConfigError: if the plan has no such stage.
    """
    chosen = _chosen(config, stages)
    fine_tunes = config.fine_tunes()
    clamped_to = {unit.seed: unit.name for unit in fine_tunes if unit.leaves_clamp_mean}
    baselines = {unit.seed: unit.name for unit in fine_tunes if "baseline" in unit.kinds}

    def after(unit: Unit) -> tuple[str, ...]:
        if isinstance(unit, Start):
            return ()
        if isinstance(unit, OtherDirection):  # it may be that of any seed
            return tuple(Start(seed).name for seed in config.seeds)
        if unit.direction != "own":
            return (OtherDirection(unit.seed, unit.direction).name,)
        if unit.route and not unit.leaves_clamp_mean:
            return (clamped_to[unit.seed],)
        if unit.control is not None:
            return tuple({baselines[unit.seed], baselines[config.seed_after(unit.seed)]})
        return (Start(unit.seed).name,)

    names = tuple(stage.name for stage in chosen)
    return [
        Task(unit.name, run_unit, (names, config, out, unit), after=after(unit), resources=resources)
        for unit in units(config)
    ]


def run_unit(stages: tuple[str, ...], config: ExperimentConfig, out: Path, unit: Unit, tick: Tick) -> None:
    """The named stages of one unit, in their order."""
    for stage in _chosen(config, stages):
        if stage.of in unit.kinds:
            stage.module.work(config, Layout(out), unit, partial(tick, stage.name))


def _chosen(config: ExperimentConfig, names: tuple[str, ...] | None) -> list[Stage]:
    plan = PLANS[config.plan.name]
    known = [stage.name for stage in plan.stages]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"`revlens {plan.verb}` has no stage {name!r}; it has {', '.join(known)}.")
    return [stage for stage in plan.stages if names is None or stage.name in names]


def default_backend(config: ExperimentConfig, n_workers: int | None = None) -> Processes:
    """Processes of this machine.

    Tasks of a small model go to worker processes of one thread each, so that the numbers do not depend on how
    many cores there are; a large model (see `Subject.parallel`) has one worker process, and its threads and
    device, to itself.

    Args:
        config: the experiment.
        n_workers: how many processes instead.
    """
    parallel = config.subject.parallel
    return Processes(n_workers if parallel or n_workers else 1, one_thread=parallel)
