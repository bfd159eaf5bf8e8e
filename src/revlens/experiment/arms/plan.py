"""The plan of `revlens reproduce`: the paper's arms, one fine-tune each, whose checkpoints are captured and
compared.
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


#: The paper's arms and further controls of block, in the order of tables and figures.
ARMS = ("baseline", "block", "push", "random", "orthogonal", "shuffled", "foreign")
#: Block along other directions, see `revlens.experiment.arms.controls`.
MATCHED = (*ARMS[3:], "specific", "second", "third", "late")
#: Every arm that there can be: the guards of a study as well.
_KNOWN = (*ARMS[:3], *MATCHED, *(name for name in METHODS if name not in ARMS))
#: Updates after which a matched control is captured and judged, beside the last: the paper's. A control is
#: asked how it compares with block, not for its course.
_CONTROL_MARKS = (1, 20)
#: The fine-tune of the reference on the baseline's updates.
REFERENCE = "reference"


@dataclass(frozen=True)
class Arms:
    """Optimizer-matched arms and the tests of causality on the baseline.

    Attributes:
        arms: see `ARMS`, and any other of `revlens.training.METHODS`; the others are compared with the
            baseline, which must be among them. ``foreign`` is left out where there is no other seed with a
            start of its own.
        strength: weight of the guard's term in block, push and block's controls.
        strengths: by arm, the strength of other methods, and of block or push in place of ``strength``; see
            `revlens.training.Method`.
        causal_runs: runs, from the first, on which causality is tested; all if None. A large model's take
            longer than its fine-tunes.
        n_null_draws: null directions per null.
        n_controls: random and covariance-matched control directions of the interventions, each.

    Raises:
        ConfigError: on unknown or repeated arms, no baseline, a number that is not positive, or a strength
            that is missing or not taken.
    """

    name: ClassVar[str] = "arms"
    #: Each seed has its own v_rev, and no other.
    directions: ClassVar[tuple[str, ...]] = ()

    arms: tuple[str, ...] = ARMS
    strength: float = 5.0
    strengths: Mapping[str, float] = field(default_factory=dict)
    causal_runs: int | None = None
    n_null_draws: int = 2000
    n_controls: int = 10

    def __post_init__(self) -> None:
        if (
            "baseline" not in self.arms
            or not set(self.arms) <= set(_KNOWN)
            or len(set(self.arms)) != len(self.arms)
        ):
            raise ConfigError(f"arms={self.arms} must be distinct, among {_KNOWN}, and include 'baseline'.")
        for name in ("strength", "n_null_draws", "n_controls", "causal_runs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} must be positive.")
        self._check_strengths()

    def _check_strengths(self) -> None:
        chosen = {arm for arm in self.arms if arm not in MATCHED and METHODS[arm].strength is not None}
        if of_no_use := sorted(set(self.strengths) - chosen):
            raise ConfigError(
                f"strengths has {', '.join(of_no_use)}, which no arm of arms={self.arms} takes."
            )
        if missing := sorted(chosen - set(self.strengths) - {"block", "push"}):
            what = "; ".join(f"{name}: {METHODS[name].strength}" for name in missing)
            raise ConfigError(f"strengths must have {', '.join(missing)} ({what}).")
        for arm, strength in self.strengths.items():
            if not strength > 0:
                raise ConfigError(f"strengths.{arm}={strength} must be positive.")

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
        tested = self.causal_seeds(config)
        in_order = [arm for arm in arms if arm not in MATCHED], [arm for arm in arms if arm in MATCHED]
        fine_tunes = [
            self._of(arm, seed, config, causal=arm == "baseline" and seed in tested)
            for some in in_order
            for seed in config.seeds
            for arm in some
        ]
        if config.subject.benign is not None:
            steps = config.steps
            fine_tunes += [
                FineTune(seed, REFERENCE, steps, steps[-1], start="reference") for seed in config.seeds
            ]
        return fine_tunes

    def causal_seeds(self, config: ExperimentConfig) -> tuple[int, ...]:
        """The seeds on which causality is tested."""
        return config.seeds[: self.causal_runs]

    def arms_of(self, config: ExperimentConfig) -> tuple[str, ...]:
        """The arms that an experiment has."""
        others = config.subject.varies_start and len(config.seeds) > 1
        return tuple(arm for arm in self.arms if others or arm != "foreign")

    def _of(self, arm: str, seed: int, config: ExperimentConfig, *, causal: bool) -> FineTune:
        control = arm if arm in MATCHED else None
        method = "block" if control else arm
        strength = None if METHODS[method].strength is None else self.strengths.get(method, self.strength)
        marks, last = config.steps, config.steps[-1]
        if control:
            marks = tuple(step for step in marks if step in (*_CONTROL_MARKS, last))
        return FineTune(
            seed, arm, marks, last, method=method, strength=strength, control=control, causal=causal
        )
