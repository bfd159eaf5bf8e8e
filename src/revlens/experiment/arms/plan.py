"""The plan of `revlens reproduce`: the paper's arms, one fine-tune each, whose checkpoints are captured and
compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from revlens.errors import ConfigError
from revlens.experiment.fine_tune import FineTune
from revlens.training import METHODS

if TYPE_CHECKING:
    from revlens.experiment.config import ExperimentConfig


#: The paper's arms and further controls of block, in the order of tables and figures.
ARMS = ("baseline", "block", "push", "random", "orthogonal", "shuffled", "foreign")
#: Block along other directions, see `revlens.experiment.arms.controls`.
MATCHED = ARMS[3:]
#: Updates after which a matched control is captured and judged, beside the last: the paper's. A control is
#: asked how it compares with block, not for its course.
_CONTROL_MARKS = (1, 20)
#: The fine-tune of the reference on the baseline's updates.
REFERENCE = "reference"


@dataclass(frozen=True)
class Arms:
    """Optimizer-matched arms and the tests of causality on the baseline.

    Attributes:
        arms: see `ARMS`; the others are compared with the baseline, which must be among them. ``foreign``
            is left out where there is no other seed with a start of its own.
        strength: weight of the guard's term in every guarded arm.
        n_null_draws: null directions per null.
        n_controls: random and covariance-matched control directions of the interventions, each.

    Raises:
        ConfigError: on unknown or repeated arms, no baseline, or a number that is not positive.
    """

    name: ClassVar[str] = "arms"
    #: Each seed has its own v_rev, and no other.
    directions: ClassVar[tuple[str, ...]] = ()

    arms: tuple[str, ...] = ARMS
    strength: float = 5.0
    n_null_draws: int = 2000
    n_controls: int = 10

    def __post_init__(self) -> None:
        if (
            "baseline" not in self.arms
            or not set(self.arms) <= set(ARMS)
            or len(set(self.arms)) != len(self.arms)
        ):
            raise ConfigError(f"arms={self.arms} must be distinct, among {ARMS}, and include 'baseline'.")
        for name in ("strength", "n_null_draws", "n_controls"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive.")

    def check(self, config: ExperimentConfig) -> None:
        """Check that the plan suits the rest of its experiment.

        Raises:
            ConfigError: on guarded arms where the checkpoints are given.
        """
        if config.subject.benign is None and self.arms != ("baseline",):
            raise ConfigError(
                f"arms={self.arms}: with checkpoints that are given there is the baseline only; others need "
                "a [finetune] table."
            )

    def fine_tunes(self, config: ExperimentConfig) -> list[FineTune]:
        """One for each seed and arm, and one of its reference where steps are trained here."""
        arms = self.arms_of(config)
        # Controls last: they need the baselines of their own and of another seed.
        in_order = [arm for arm in arms if arm not in MATCHED], [arm for arm in arms if arm in MATCHED]
        fine_tunes = [
            self._of(arm, seed, config) for some in in_order for seed in config.seeds for arm in some
        ]
        if config.subject.benign is not None:
            steps = config.steps
            fine_tunes += [
                FineTune(seed, REFERENCE, steps, steps[-1], start="reference") for seed in config.seeds
            ]
        return fine_tunes

    def arms_of(self, config: ExperimentConfig) -> tuple[str, ...]:
        """The arms that an experiment has."""
        others = config.subject.varies_start and len(config.seeds) > 1
        return tuple(arm for arm in self.arms if others or arm != "foreign")

    def _of(self, arm: str, seed: int, config: ExperimentConfig) -> FineTune:
        control = arm if arm in MATCHED else None
        method = "block" if control else arm
        strength = None if METHODS[method].strength is None else self.strength
        marks, last = config.steps, config.steps[-1]
        if control:
            marks = tuple(step for step in marks if step in (*_CONTROL_MARKS, last))
        return FineTune(seed, arm, marks, last, method=method, strength=strength, control=control)
