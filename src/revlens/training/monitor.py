"""A monitor of reversion during training, which costs one forward pass over a few probes now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.direction import ReversionDirection, isotropic_quantile
from revlens.errors import ConfigError, GuardError
from revlens.training.motion import ProbeMotion
from revlens.training.state import State, matched, named_within, part_of

_ACTIONS = ("log", "stop", "raise")


class Reading(NamedTuple):
    """Motion since the aligned model, after an update, by layer.

    Attributes:
        step: the update's number, from 1.
        alignment: cos(D_l, v_rev_l); NaN at a layer that has not moved.
        displacement: p_l, in activation units.
        fraction: reversion fraction, p_l over the length of a full reversion.
        drift_norm: ||D_l||, in activation units.
    """

    step: int
    alignment: Float[Tensor, " layer"]
    displacement: Float[Tensor, " layer"]
    fraction: Float[Tensor, " layer"]
    drift_norm: Float[Tensor, " layer"]

    def means(self) -> dict[str, float]:
        """Means over layers, under the names that logs have."""
        return {
            "reversion_alignment": float(self.alignment.mean()),
            "reversion_displacement": float(self.displacement.mean()),
            "reversion_fraction": float(self.fraction.mean()),
            "drift_norm": float(self.drift_norm.mean()),
        }


@dataclass
class Monitor:
    """Reads alignment, displacement and reversion fraction while a model trains, and may stop the training.

    Attributes:
        motion: on which probes (those of the split ``drift``: neither v_rev's own nor the guard's), along
            v_rev.
        threshold: the mean alignment over layers above which ``action`` takes place.
        every: updates from one reading to the next; the first is after the first update.
        action: ``log`` goes on, ``stop`` ends the training after the update, ``raise`` raises an error.
        on_reading: called with every reading, for a logger of yours.
        readings: all readings of this training so far.

    Raises:
        ConfigError: if ``every`` is below 1, or the action is unknown.
    """

    motion: ProbeMotion
    threshold: float
    every: int = 10
    action: str = "log"
    on_reading: Callable[[Reading], None] = lambda reading: None
    readings: list[Reading] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every={self.every} must be at least 1.")
        if self.action not in _ACTIONS:
            raise ConfigError(f"Unknown action {self.action!r}; expected one of {', '.join(_ACTIONS)}.")

    @classmethod
    def along(
        cls,
        v_rev: ReversionDirection,
        aligned: nn.Module,
        prompts: Sequence[str],
        *,
        threshold: float | None = None,
        every: int = 10,
        action: str = "log",
        on_reading: Callable[[Reading], None] = lambda reading: None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Monitor:
        """Fix the starting point at the aligned model.

        Args:
            v_rev: the reversion direction.
            aligned: the model at step 0.
            prompts: user messages of the split ``drift``.
            threshold: see the class; the isotropic null's 99th percentile if None.
            every: see the class.
            action: see the class.
            on_reading: see the class.
            tokenizer: of a Hugging Face model; a bridge has its own.

        Raises:
            GuardError, ProbeError, NonFiniteError: see `ProbeMotion.along`.
            ConfigError: see there, and the class.
        """
        threshold = isotropic_quantile(v_rev.unit.shape[1]) if threshold is None else threshold
        motion = ProbeMotion.along(v_rev, aligned, prompts, tokenizer=tokenizer)
        return cls(motion, threshold, every, action, on_reading)

    def is_due(self, step: int) -> bool:
        """Whether this update has a reading."""
        return (step - 1) % self.every == 0

    def begin(self) -> None:
        """Start a training, without readings."""
        self.readings = []

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed training needs of it: where the motion started, and the readings."""
        empty = torch.zeros(0, len(Reading._fields) - 1, len(self.motion.layers))
        values = [torch.stack(list(reading[1:])) for reading in self.readings]
        return {
            **named_within("motion", self.motion.state_dict()),
            "steps": torch.tensor([reading.step for reading in self.readings], dtype=torch.long),
            "readings": torch.stack(values) if values else empty,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state.

        Raises:
            GuardError: if the state is of a monitor of other probes or layers.
        """
        saved = matched(self, state, growing=("steps", "readings"))
        self.motion = self.motion.since(part_of(saved, "motion"))
        self.readings = [
            Reading(step, *values)
            for step, values in zip(saved["steps"].tolist(), saved["readings"], strict=True)
        ]

    @torch.no_grad()
    def read(self, model: nn.Module, step: int) -> Reading:
        """Take a reading after an update, and keep it.

        Raises:
            GuardError: if the alignment exceeds the threshold and the action is ``raise``.
        """
        reading = self.measure(model, step)
        self.readings.append(reading)
        self.on_reading(reading)
        if self.action == "raise" and self.exceeds(reading):
            raise GuardError(
                f"The mean alignment of the drift with v_rev is {float(reading.alignment.mean()):.3f} after "
                f"update {step}, above {self.threshold:.3f}: the model reverts. "
                "Train with a guard, or stop here."
            )
        return reading

    @torch.no_grad()
    def measure(self, model: nn.Module, step: int) -> Reading:
        """A reading that is not kept."""
        drift, unit = self.motion.drift(model), self.motion.unit
        displacement = (drift * unit).sum(-1)
        norm = drift.norm(dim=-1)
        values = (displacement / norm, displacement, displacement / self.motion.gap, norm)
        return Reading(step, *(value.cpu() for value in values))

    def exceeds(self, reading: Reading) -> bool:
        """Whether the mean alignment over layers lies above the threshold."""
        return float(reading.alignment.mean()) > self.threshold
