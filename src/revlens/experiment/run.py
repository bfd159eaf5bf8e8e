"""Running stages over seeds and arms in worker processes, with progress bars."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from revlens.atomic import write_text
from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.layout import Layout
from revlens.experiment.stages import PER_SEED, STAGES, n_ticks, run_arm, run_start

_ticks: Any = None  # the worker's end of the progress queue, set once per process


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
            raise ResultsError(f"{out} holds an experiment with another configuration; choose another --out or delete it.")
        if key_file.read_text() != config.key():
            raise ResultsError(
                f"{out} was started with other versions of revlens, torch, transformers or tokenizers; choose another --out or delete it."
            )
        return
    write_text(key_file, config.key())
    config.save(layout.config)


def run(config: ExperimentConfig, out: Path, *, stages: tuple[str, ...] = STAGES, console: Console | None = None) -> None:
    """Run the chosen stages for every seed and arm; what is already on disk is not computed again.

    Runs of a small model go to worker processes of one thread each, so that the numbers do not depend on how many cores
    there are; a large model (see `Subject.parallel`) has one worker process, and its threads and device, to itself.

    Raises:
        ResultsError: see `prepare`; also if an earlier stage that was not chosen has not been run.
        RevlensError: whatever a stage raises; the other runs are then cancelled.
    """
    prepare(config, out)
    context = mp.get_context("spawn")
    queue = context.Queue()
    n_workers = min(os.cpu_count() or 1, len(config.seeds) * len(config.arms)) if config.subject.parallel else 1
    totals = {stage: len(config.seeds) * (1 if stage in PER_SEED else len(config.arms)) * n_ticks(stage, config) for stage in stages}
    with (
        _progress(console) as progress,
        ProcessPoolExecutor(
            n_workers, mp_context=context, initializer=_initialise_worker, initargs=(queue, config.subject.parallel)
        ) as pool,
    ):
        bars = {stage: progress.add_task(stage, total=total) for stage, total in totals.items()}
        # A seed's arms are queued once its start is there; other seeds go on meanwhile.
        starts = {pool.submit(_task, run_start, stages, config, out, seed): seed for seed in config.seeds}
        pending: set[Future[None]] = set(starts)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    if future in starts:
                        pending |= {pool.submit(_task, run_arm, stages, config, out, starts[future], arm) for arm in config.arms}
                _drain(queue, lambda stage, n: progress.advance(bars[stage], n))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in mp.active_children():  # what they had not finished leaves nothing behind
                worker.terminate()
            raise
        for stage, bar in bars.items():  # what came from the cache did not tick
            progress.update(bar, completed=totals[stage])


def _progress(console: Console | None) -> Progress:
    columns = TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def _drain(queue: Any, advance: Callable[[str, int], None]) -> None:
    counts: Counter[str] = Counter()
    try:
        while True:
            counts[queue.get_nowait()] += 1
    except Empty:
        for stage, n in counts.items():
            advance(stage, n)


def _initialise_worker(queue: Any, one_thread: bool) -> None:
    global _ticks  # noqa: PLW0603 - set once, when the process starts
    _ticks = queue
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need on a GPU
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    if mp.parent_process() is not None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exit like any other, so that scratch files go
    if one_thread:
        torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    disable_progress_bars()


def _task(function: Callable[..., None], *args: Any) -> None:
    function(*args, _ticks.put)
