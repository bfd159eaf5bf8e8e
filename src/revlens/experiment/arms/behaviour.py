"""The stage that judges one arm."""

from __future__ import annotations

from revlens.experiment.arms.history import arm_history
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import evaluate_checkpoint
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.units import Tick
from revlens.results import Layout
from revlens.storage import write_listed_json
from revlens.training import KLAnchor


def work(config: ExperimentConfig, layout: Layout, arm: FineTune, tick: Tick) -> None:
    """Generate and judge at every captured step of one arm; replies are kept beside the rates."""
    path = layout.behaviour(arm.seed, arm.label)
    if path.is_file():
        return
    material, records = config.subject.material(), []
    history = arm_history(config, arm)
    # The divergence of the first answer token on the probes of drift: a rival of the drift as a predictor.
    anchor = KLAnchor.at(history.aligned.load(), material.probes()["drift"], 1.0)
    for checkpoint in history.steps:
        evaluation, model = evaluate_checkpoint(
            checkpoint, material, config.reply_tokens, batch_size=config.subject.batch_size
        )
        kl = anchor.divergence(model)
        records.append(evaluation.record(step=checkpoint.step, kl=kl))
        tick()
    write_listed_json(path, records)


def n_ticks(config: ExperimentConfig, arm: FineTune) -> int:
    """One for each captured step."""
    return len(arm.marks)
