"""The stage that judges one arm."""

from __future__ import annotations

from revlens.experiment.arms.history import arm_history
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import evaluate
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.units import Tick
from revlens.results import Layout
from revlens.storage import write_listed_json


def work(config: ExperimentConfig, layout: Layout, arm: FineTune, tick: Tick) -> None:
    """Generate and judge at every captured step of one arm; replies are kept beside the rates."""
    path = layout.behaviour(arm.seed, arm.label)
    if path.is_file():
        return
    material, records = config.subject.material(), []
    for checkpoint in arm_history(config, arm).steps:
        model, batch_size = checkpoint.load(), config.subject.batch_size
        evaluation = evaluate(model, material, config.reply_tokens, batch_size=batch_size)
        records.append(evaluation.record(step=checkpoint.step))
        tick()
    write_listed_json(path, records)


def n_ticks(config: ExperimentConfig, arm: FineTune) -> int:
    """One for each captured step."""
    return len(arm.marks)
