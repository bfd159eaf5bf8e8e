"""What an experiment has done, and what it has left to do, from what lies in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from revlens.activations import MANIFEST, Activations
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.engine import units
from revlens.experiment.plans import PLANS, Stage
from revlens.experiment.units import Unit
from revlens.results import Layout


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        stage: its name.
        n_units: seeds, directions or fine-tunes that it works on.
        left: names of those that it has not finished.
    """

    stage: str
    n_units: int
    left: tuple[str, ...]

    @property
    def n_done(self) -> int:
        """Units that are finished."""
        return self.n_units - len(self.left)


def remaining(config: ExperimentConfig, layout: Layout) -> list[StageProgress]:
    """How far every stage of an experiment is, in the order of its plan. Files are looked for, not read."""
    everything = units(config)
    found = []
    for stage in PLANS[config.plan.name].stages:
        concerned = [unit for unit in everything if stage.of in unit.kinds and _has_work(config, stage)]
        left = tuple(unit.name for unit in concerned if not _is_done(stage, layout, unit))
        found.append(StageProgress(stage.name, len(concerned), left))
    return found


def _has_work(config: ExperimentConfig, stage: Stage) -> bool:
    """Nothing is fine-tuned where the checkpoints are given."""
    return stage.name != "finetune" or config.subject.benign is not None


def _is_done(stage: Stage, layout: Layout, unit: Unit) -> bool:
    return all(_is_whole(path) for path in stage.leaves(layout, unit))


def _is_whole(path: Path) -> bool:
    """A capture fills its folder bit by bit; whatever else a stage leaves appears whole."""
    if path.name == "activations":
        return (path / MANIFEST).is_file() and not Activations.open(path).missing()
    return path.exists()
