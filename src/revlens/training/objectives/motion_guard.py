"""The base of guards that act on the motion of the mean probe activation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion
from revlens.training.state import State, matched, named_within, part_of


@dataclass
class MotionGuard(Guard):
    """A guard whose state has where the motion started.

    Attributes:
        motion: on which probes, at which layers, along what.
    """

    motion: ProbeMotion

    def state_dict(self) -> dict[str, Tensor]:
        return named_within("motion", self.motion.state_dict())

    def load_state_dict(self, state: State) -> None:
        self.motion = self.motion.since(part_of(matched(self, state), "motion"))
