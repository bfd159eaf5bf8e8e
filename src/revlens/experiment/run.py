"""Running stages over seeds and arms as a sweep, with progress bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from revlens.errors import ConfigError, ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.stages import PER_SEED, STAGES, n_ticks, run_arm, run_start
from revlens.results import Layout
from revlens.storage import n_launched, write_text
from revlens.sweeps import Backend, OnTick, Processes, Resources, Task, run_tasks


def prepare(config: ExperimentConfig, out: Path) -> None:
    """Tie an output folder to a configuration.

    Raises:
        ConfigError, DataError: if the subject's prompts or data cannot be built; nothing is written then.
        ResultsError: if the folder belongs to another configuration, or to other versions of code or libraries.
    """
    config.subject.material()
    layout = Layout(out)
    key_file = out / "key"
    if layout.config.is_file():
        if ExperimentConfig.load(layout.config) != config:
            raise ResultsError(
                f"{out} holds an experiment with another configuration; choose another --out or delete it."
            )
        if key_file.read_text() != config.key():
            raise ResultsError(
                f"{out} was started with other versions of revlens, torch, transformers or tokenizers; choose another --out or delete it."
            )
        return
    write_text(key_file, config.key())
    config.save(layout.config)


def run(
    config: ExperimentConfig,
    out: Path,
    *,
    stages: tuple[str, ...] = STAGES,
    on: Backend | None = None,
    resources: Resources | None = None,
    console: Console | None = None,
) -> None:
    """Run the chosen stages for every seed and arm; what is already on disk is not computed again.

    Args:
        config: the experiment.
        out: its folder; on a cluster, one that every machine sees under this path.
        stages: some of `STAGES`.
        on: where runs go; see `default_backend` if None.
        resources: of each run, on a cluster.
        console: where progress bars are drawn.

    Raises:
        ConfigError: in one of several processes that were launched together: an experiment starts its own.
        ResultsError: see `prepare`; also if an earlier stage that was not chosen has not been run.
        RevlensError: whatever a stage raises, or the backend; the other runs are then cancelled.
    """
    if n_launched() > 1:
        raise ConfigError(
            "An experiment starts its own processes: run it as one, with --workers or --ray. accelerate launch is for scripts of one "
            "fine-tune or capture, see docs/scaling.md."
        )
    prepare(config, out)
    totals = {
        stage: len(config.seeds) * (1 if stage in PER_SEED else len(config.arms)) * n_ticks(stage, config)
        for stage in stages
    }
    with progress_bars(totals, console) as on_tick:
        run_tasks(
            tasks(config, out.resolve(), stages, resources or Resources()),
            on=on or default_backend(config),
            on_tick=on_tick,
        )


def default_backend(config: ExperimentConfig, n_workers: int | None = None) -> Processes:
    """Processes of this machine.

    Runs of a small model go to worker processes of one thread each, so that the numbers do not depend on how many cores
    there are; a large model (see `Subject.parallel`) has one worker process, and its threads and device, to itself.

    Args:
        config: the experiment.
        n_workers: how many processes instead.
    """
    parallel = config.subject.parallel
    return Processes(n_workers if parallel or n_workers else 1, one_thread=parallel)


def tasks(config: ExperimentConfig, out: Path, stages: tuple[str, ...], resources: Resources) -> list[Task]:
    """One task for the start of each seed, and one for each of its arms after that."""
    starts = [
        Task(f"seed {seed}", run_start, (stages, config, out, seed), resources=resources)
        for seed in config.seeds
    ]
    arms = [
        Task(
            f"seed {seed}, {arm}",
            run_arm,
            (stages, config, out, seed, arm),
            after=(f"seed {seed}",),
            resources=resources,
        )
        for seed in config.seeds
        for arm in config.arms
    ]
    return starts + arms


@contextmanager
def progress_bars(totals: Mapping[str, int], console: Console | None) -> Iterator[OnTick]:
    """A bar for every label, with how often it will be ticked; full at the end, as what came from a cache did not tick."""
    columns = TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bars = {label: progress.add_task(label, total=total) for label, total in totals.items()}
        yield lambda label, n: progress.advance(bars[label], n)
        for label, bar in bars.items():
            progress.update(bar, completed=totals[label])
