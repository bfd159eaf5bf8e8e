"""The fine-tunes of a study: what each one is, and which there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from revlens.organism import OrganismConfig
from revlens.study.config import TRANSFERRED, StudyConfig

#: Parts of the study. grid: methods and strengths. lasting: longer. released: the guard is switched off on the way. early: tasks
#: and learning rates, without a guard, whose harm is to be predicted. transfer: block along a v_rev from elsewhere.
PARTS = ("grid", "lasting", "released", "early", "transfer")
#: Beside its last update, a long run is judged at these multiples of a short one's length.
_MILESTONES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Run:
    """One fine-tune of one seed.

    Attributes:
        part: see `PARTS`.
        seed: as in the experiment: data, their order and the start are those of every other run of the seed and part.
        marks: updates after which behaviour is judged; the last one ends the run.
        horizon: updates for which data are drawn; runs of equal horizon see the same data in the same order.
        method: see `revlens.training.METHODS`.
        strength: its strength.
        guarded: updates after which the guard is switched off; None for never.
        task: the benign task.
        rate: learning rate in multiples of the recipe's.
        direction: where v_rev comes from; ``own``, or one of `DIRECTIONS`.
    """

    part: str
    seed: int
    marks: tuple[int, ...]
    horizon: int
    method: str = "baseline"
    strength: float | None = None
    guarded: int | None = None
    task: str = ""
    rate: float = 1.0
    direction: str = "own"

    @property
    def steps(self) -> int:
        """Optimizer updates."""
        return self.marks[-1]

    @property
    def name(self) -> str:
        """Unique in a study, and fit for a file name."""
        strength = "" if self.strength is None else f"-{self.strength:g}"
        where = "" if self.direction == "own" else f"-{self.direction}"
        return f"{self.part}-seed{self.seed}-{self.task}-x{self.rate:g}-{self.method}{strength}{where}"

    @property
    def leaves_anchor(self) -> bool:
        """Whether the grid's other runs of the seed are clamped to this one's mean activations."""
        return self.part == "grid" and self.method == "baseline"

    def subject(self, subject: OrganismConfig) -> OrganismConfig:
        """The experiment's subject with this run's task and learning rate; its start is the same."""
        assert subject.benign is not None
        return replace(
            subject,
            task=self.task,
            benign=replace(subject.benign, learning_rate=subject.benign.learning_rate * self.rate),
        )


def plan(config: StudyConfig) -> list[Run]:
    """Every fine-tune of the study, those first that others need."""
    short, long, released = config.experiment.steps[-1], config.long_steps, config.released_steps
    task, seeds, end = config.subject.task, config.experiment.seeds, (short,)
    course = tuple(sorted({n * short for n in _MILESTONES if n * short < long} | {released, long}))
    grid = [
        Run("grid", seed, end, short, method, strength, task=task)
        for method, strengths in config.grid.items()
        for strength in strengths
        for seed in seeds
    ]
    lasting = [
        Run("lasting", seed, course, long, *setting, task=task)
        for setting in config.lasting.items()
        for seed in seeds
    ]
    until = tuple(step for step in course if step <= released)
    switched = [
        Run("released", s, until, long, *setting, guarded=short, task=task)
        for setting in config.released.items()
        for s in seeds
    ]
    early = [
        Run("early", s, end, short, task=other, rate=rate)
        for other in config.tasks
        for rate in config.rates
        for s in seeds
    ]
    transfer = [
        Run("transfer", s, end, short, *TRANSFERRED, task=task, direction=d)
        for d in config.directions
        for s in seeds
    ]
    return [*grid, *early, *transfer, *switched, *lasting]
