"""The training history of one arm."""

from __future__ import annotations

from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import subject_of
from revlens.history import TrainingHistory
from revlens.subject import BenignRun


def cached_fine_tune(config: ExperimentConfig, arm: FineTune) -> BenignRun:
    """The fine-tune of one arm in the cache; its label tells all that its guard is made from."""
    label = arm.label if arm.strength is None else f"{arm.label}-{arm.strength:g}"
    if arm.label == "foreign":
        label += f"-of-{config.seed_after(arm.seed)}"
    return BenignRun(subject_of(config, arm), arm.seed, arm.marks, label, arm.start)


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
            f"Arm {arm.label!r} of seed {arm.seed} has no checkpoints; run `revlens finetune` first."
        )
    return run.history()
