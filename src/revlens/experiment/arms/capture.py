"""The stage that captures one arm."""

from __future__ import annotations

from revlens.activations import capture
from revlens.experiment.arms.history import arm_history
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.units import Tick
from revlens.results import Layout


def work(config: ExperimentConfig, layout: Layout, arm: FineTune, tick: Tick) -> None:
    """Capture every layer's residual stream at the last prompt token, at every checkpoint of one arm."""
    capture(
        arm_history(config, arm),
        config.subject.material().probes(),
        layout.activations(arm.seed, arm.label),
        splits=("direction", "drift", "harmless"),
        batch_size=min(64, config.subject.batch_size),
        on_checkpoint=lambda name: tick(),
    )


def n_ticks(config: ExperimentConfig, arm: FineTune) -> int:
    """One for each checkpoint: reference, aligned and the captured steps."""
    return 2 + len(arm.marks)
