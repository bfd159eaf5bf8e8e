"""The training history of one arm."""

from __future__ import annotations

from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import subject_of
from revlens.history import TrainingHistory
from revlens.subject import BenignRun


def cached_fine_tune(config: ExperimentConfig, arm: FineTune) -> BenignRun:
    """The fine-tune of one arm in the cache; every guarded arm is labelled with its strength."""
    label = arm.method if arm.strength is None else f"{arm.method}-{arm.strength:g}"
    return BenignRun(subject_of(config, arm), arm.seed, arm.marks, label)


def arm_history(config: ExperimentConfig, arm: FineTune) -> TrainingHistory:
    """The training history of one arm.

    Raises:
        ResultsError: if it has not been fine-tuned yet.
    """
    given = config.subject.observed(arm.seed)
    if given is not None:
        return given
    run = cached_fine_tune(config, arm)
    if not run.is_done:
        raise ResultsError(
            f"Arm {arm.method!r} of seed {arm.seed} has no checkpoints; run `revlens finetune` first."
        )
    return run.history()
