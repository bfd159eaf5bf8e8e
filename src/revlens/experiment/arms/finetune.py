"""The stage that fine-tunes one arm and keeps its checkpoints in the cache."""

from __future__ import annotations

from revlens.experiment.arms.controls import matched_block
from revlens.experiment.arms.history import cached_fine_tune
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import guard_of, own_v_rev
from revlens.experiment.units import Tick
from revlens.results import Layout
from revlens.storage import write_listed_json


def work(config: ExperimentConfig, layout: Layout, arm: FineTune, tick: Tick) -> None:
    """Fine-tune one arm from the model that it starts from, unless its checkpoints are given or cached."""
    if config.subject.benign is None:
        return
    own_v_rev(
        layout, arm.seed
    )  # raises if the stage before has not been run, also where the fine-tune is cached
    run = cached_fine_tune(config, arm)
    make_guard = guard_of if arm.control is None else matched_block
    run.train(lambda start: make_guard(config, layout, arm, start), on_step=lambda step: tick())
    write_listed_json(layout.losses(arm.seed, arm.label), run.losses())


def n_ticks(config: ExperimentConfig, arm: FineTune) -> int:
    """One for each update."""
    return arm.steps
