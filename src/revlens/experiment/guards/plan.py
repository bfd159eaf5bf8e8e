"""The plan of `revlens study`: every guard over its strengths, for longer, switched off, and along v_rev from
elsewhere.

Everything here was fixed before its runs; tries with other grids are in docs/lab-notes.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from revlens.errors import ConfigError
from revlens.experiment.fine_tune import FineTune
from revlens.training import METHODS

if TYPE_CHECKING:
    from revlens.experiment.config import ExperimentConfig

#: Parts of the plan. grid: methods and strengths. early: tasks and learning rates, without a guard, whose
#: harm is to be predicted. transfer: block along a v_rev from elsewhere. released: the guard is switched off
#: on the way. lasting: longer.
PARTS = ("grid", "early", "transfer", "released", "lasting")
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
#: The guard that is given v_rev from elsewhere.
TRANSFERRED = ("block", 5.0)
#: Benign learning rates of the fine-tunes whose harm is to be predicted, in multiples of the recipe's.
RATES = (0.25, 0.5, 1.0, 2.0)
#: Beside its last update, a long fine-tune is judged at these multiples of a short one's length.
_MILESTONES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Guards:
    """Which guards are compared, how strong, for how long, and on what; a part without entries is left out.

    Attributes:
        grid: strengths of each method; the baseline must be among them.
        lasting: methods followed for ``long_steps`` updates, and their strengths.
        released: methods switched off after the experiment's number of updates, and their strengths.
        long_steps: updates of a long fine-tune.
        released_steps: updates of a fine-tune whose guard is switched off on the way.
        tasks: benign tasks of the fine-tunes whose harm is to be predicted.
        rates: their learning rates, in multiples of the recipe's.
        directions: from which other checkpoints v_rev is taken, see ``other_histories`` of
            `revlens.subject.Subject`.

    Raises:
        ConfigError: on an unknown method; a strength that is missing, not positive or not taken; no baseline
            where others are compared with it; or a rate that is not positive.
    """

    name: ClassVar[str] = "guards"

    grid: Mapping[str, tuple[float | None, ...]] = field(default_factory=lambda: GRID)
    lasting: Mapping[str, float | None] = field(default_factory=lambda: LASTING)
    released: Mapping[str, float | None] = field(default_factory=lambda: RELEASED)
    long_steps: int = 1000
    released_steps: int = 300
    tasks: tuple[str, ...] = ()
    rates: tuple[float, ...] = RATES
    directions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = {*self.grid, *self.lasting, *self.released} - METHODS.keys()
        if unknown:
            raise ConfigError(f"Methods must be among {', '.join(METHODS)}; unknown: {sorted(unknown)}.")
        for method, strengths in [
            *self.grid.items(),
            *((m, (s,)) for part in (self.lasting, self.released) for m, s in part.items()),
        ]:
            _check_strengths(method, strengths)
        if "baseline" not in self.grid:
            raise ConfigError("The baseline must be in the grid: every other method is compared with it.")
        if (self.lasting or self.released) and "baseline" not in self.lasting:
            raise ConfigError(
                "The baseline must be among the lasting methods: long fine-tunes are compared with it."
            )
        if any(not rate > 0 for rate in self.rates):
            raise ConfigError(f"rates={self.rates} must be positive.")

    def check(self, config: ExperimentConfig) -> None:
        """Check that the plan suits the rest of its experiment.

        Raises:
            ConfigError: on lengths that do not follow one another, a subject that is not trained here, or
                tasks, directions or methods that the subject does not allow.
        """
        subject = config.subject
        if subject.benign is None:
            raise ConfigError(
                "A study compares guards, and the checkpoints of this history are given: there is nothing "
                "to guard. Add a [finetune] table."
            )
        if (self.lasting or self.released) and not config.steps[-1] < self.released_steps <= self.long_steps:
            raise ConfigError(
                f"A fine-tune of {config.steps[-1]} updates, released_steps={self.released_steps} and "
                f"long_steps={self.long_steps} must follow one another."
            )
        if not set(self.tasks) <= set(subject.tasks):
            raise ConfigError(
                f"tasks={self.tasks} must be among those of the subject: {', '.join(subject.tasks)}."
            )
        if not set(self.directions) <= set(subject.other_histories):
            known = ", ".join(subject.other_histories) or "none"
            raise ConfigError(f"directions={self.directions} must be among those of the subject: {known}.")

    @classmethod
    def of(cls, config: ExperimentConfig) -> Guards:
        """The whole plan, on the tasks and directions that the subject has."""
        last, subject = config.steps[-1], config.subject
        return cls(
            tasks=subject.tasks,
            long_steps=10 * last,
            released_steps=3 * last,
            directions=subject.other_histories,
        )

    @classmethod
    def quick(cls, config: ExperimentConfig) -> Guards:
        """A smoke run: every part, few methods."""
        last, subject = config.steps[-1], config.subject
        grid = {
            "baseline": (None,),
            "block": (5.0,),
            "push": (5.0,),
            "projection": (None,),
            "rehearsal": (0.1,),
        }
        return cls(
            grid=grid,
            lasting={"baseline": None, "block": 5.0},
            released={"block": 5.0},
            long_steps=last + 4,
            released_steps=last + 2,
            tasks=subject.tasks[:1],
            rates=(1.0, 2.0),
            directions=("other-seed",) if len(config.seeds) > 1 else (),
        )

    @classmethod
    def small(cls, config: ExperimentConfig) -> Guards:
        """A first look at a user's own model: the grid alone, few strengths of the methods that it allows."""
        lacking = {"refusals"} if config.subject.material().refusals(1, 0) is None else set()
        grid = {
            name: method.small_grid
            for name, method in METHODS.items()
            if method.small_grid and not method.needs & lacking
        }
        return cls(grid=grid, lasting={}, released={}, rates=())

    def fine_tunes(self, config: ExperimentConfig) -> list[FineTune]:
        """Every fine-tune, those first that others need."""
        short, seeds = config.steps[-1], config.seeds
        course = tuple(
            sorted(
                {n * short for n in _MILESTONES if n * short < self.long_steps}
                | {self.released_steps, self.long_steps}
            )
        )
        until = tuple(step for step in course if step <= self.released_steps)
        end, grid, early, transfer, released, lasting = (short,), [], [], [], [], []
        for method, strengths in self.grid.items():
            for strength in strengths:
                label = f"grid-{_setting(method, strength)}"
                grid += [FineTune(s, label, end, short, "grid", method, strength, route=True) for s in seeds]
        for task in self.tasks:
            for rate in self.rates:
                label = f"early-{task}-x{rate:g}"
                early += [FineTune(s, label, end, short, "early", task=task, rate=rate) for s in seeds]
        for source in self.directions:
            label = f"transfer-{_setting(*TRANSFERRED)}-{source}"
            transfer += [
                FineTune(s, label, end, short, "transfer", *TRANSFERRED, direction=source) for s in seeds
            ]
        for method, strength in self.released.items():
            label = f"released-{_setting(method, strength)}"
            released += [
                FineTune(s, label, until, self.long_steps, "released", method, strength, until=short)
                for s in seeds
            ]
        for method, strength in self.lasting.items():
            label = f"lasting-{_setting(method, strength)}"
            lasting += [
                FineTune(s, label, course, self.long_steps, "lasting", method, strength) for s in seeds
            ]
        return [*grid, *early, *transfer, *released, *lasting]


def _check_strengths(method: str, strengths: tuple[float | None, ...]) -> None:
    what = METHODS[method].strength
    if not strengths or any((strength is None) != (what is None) for strength in strengths):
        expected = "has no strength" if what is None else f"needs strengths ({what})"
        raise ConfigError(f"The method {method!r} {expected}; got {strengths}.")
    if any(strength is not None and not strength > 0 for strength in strengths):
        raise ConfigError(f"Strengths of {method!r} must be positive ({what}); got {strengths}.")


def _setting(method: str, strength: float | None) -> str:
    return method if strength is None else f"{method}-{strength:g}"
