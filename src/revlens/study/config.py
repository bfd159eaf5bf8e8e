"""What the study of guards compares. Everything here was fixed before its runs; tries with other grids are in docs/lab-notes.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from revlens.errors import ConfigError
from revlens.experiment import ExperimentConfig
from revlens.organism import TASKS, OrganismConfig
from revlens.training import METHODS

#: Strengths of each method, weak to strong.
GRID: Mapping[str, tuple[float | None, ...]] = {name: method.grid for name, method in METHODS.items()}
#: Methods that are followed for longer, with a strength each from the middle of the grid.
LASTING: Mapping[str, float | None] = {"baseline": None, "block": 5.0, "adaptive": 0.05, "rehearsal": 0.1}
#: Methods that are switched off in the middle.
RELEASED: Mapping[str, float | None] = {
    "block": 5.0,
    "adaptive": 0.05,
    "projection": None,
    "rehearsal": 0.1,
    "kl": 1.0,
}
#: From which other checkpoints v_rev is taken: a reference with half the updates, an alignment with half the updates (of the
#: same seed's initial weights), and the next seed's own v_rev.
DIRECTIONS = ("early-reference", "other-alignment", "other-seed")
#: The guard that is given them.
TRANSFERRED = ("block", 5.0)
#: Benign learning rates of the runs whose harm is to be predicted, in multiples of the recipe's.
RATES = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class StudyConfig:
    """A study of guards on an experiment's subject and seeds.

    Attributes:
        experiment: its subject, seeds, length of a fine-tune and replies.
        grid: strengths of each method.
        lasting: methods followed for ``long_steps`` updates, and their strengths.
        released: methods switched off after the experiment's number of updates, and their strengths.
        long_steps: updates of a long run.
        released_steps: updates of a run whose guard is switched off on the way.
        tasks: benign tasks of the runs whose harm is to be predicted.
        rates: their learning rates, in multiples of the recipe's.
        directions: see `DIRECTIONS`.

    Raises:
        ConfigError: on an unknown method, direction or task, lengths that do not follow one another, or a subject that is not trained here.
    """

    experiment: ExperimentConfig
    grid: Mapping[str, tuple[float | None, ...]] = field(default_factory=lambda: GRID)
    lasting: Mapping[str, float | None] = field(default_factory=lambda: LASTING)
    released: Mapping[str, float | None] = field(default_factory=lambda: RELEASED)
    long_steps: int = 1000
    released_steps: int = 300
    tasks: tuple[str, ...] = TASKS
    rates: tuple[float, ...] = RATES
    directions: tuple[str, ...] = DIRECTIONS

    def __post_init__(self) -> None:
        if not isinstance(self.experiment.subject, OrganismConfig):
            raise ConfigError(
                "The study of guards trains reference and aligned models anew; it needs an organism, not checkpoints."
            )
        unknown = {*self.grid, *self.lasting, *self.released} - METHODS.keys()
        if unknown or "baseline" not in self.grid or "baseline" not in self.lasting:
            raise ConfigError(
                f"Methods must be among {', '.join(METHODS)}, and the baseline among them; unknown: {sorted(unknown)}."
            )
        if not set(self.directions) <= set(DIRECTIONS):
            raise ConfigError(f"directions={self.directions} must be among {', '.join(DIRECTIONS)}.")
        if not self.experiment.steps[-1] < self.released_steps <= self.long_steps:
            raise ConfigError(
                f"A fine-tune of {self.experiment.steps[-1]} updates, released_steps={self.released_steps} and "
                f"long_steps={self.long_steps} must follow one another."
            )
        known = self.experiment.subject.tasks
        if not self.tasks or not set(self.tasks) <= set(known):
            raise ConfigError(f"tasks={self.tasks} must be among those of the subject: {', '.join(known)}.")

    @property
    def subject(self) -> OrganismConfig:
        """The experiment's subject."""
        assert isinstance(self.experiment.subject, OrganismConfig)
        return self.experiment.subject

    @classmethod
    def of(cls, experiment: ExperimentConfig) -> StudyConfig:
        """The whole study, on the tasks that the subject has."""
        subject = experiment.subject
        last = experiment.steps[-1]
        tasks = subject.tasks if isinstance(subject, OrganismConfig) else TASKS[:1]  # the latter is refused
        return cls(experiment, tasks=tasks, long_steps=10 * last, released_steps=3 * last)

    @classmethod
    def quick(cls, experiment: ExperimentConfig) -> StudyConfig:
        """A smoke run: every part of the study, few methods."""
        grid = {
            "baseline": (None,),
            "block": (5.0,),
            "push": (5.0,),
            "projection": (None,),
            "rehearsal": (0.1,),
        }
        last = experiment.steps[-1]
        return cls(
            experiment,
            grid=grid,
            lasting={"baseline": None, "block": 5.0},
            released={"block": 5.0},
            long_steps=last + 4,
            released_steps=last + 2,
            tasks=TASKS[:1],
            rates=(1.0, 2.0),
            directions=("other-seed",) if len(experiment.seeds) > 1 else (),
        )
