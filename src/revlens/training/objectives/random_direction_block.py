"""Control: block along random directions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from revlens.direction import isotropic_directions
from revlens.training.motion import ProbeMotion
from revlens.training.objectives.block import Block


@dataclass(frozen=True)
class RandomDirectionBlock(Block):
    """Block along a random unit direction at each layer: what the penalty does whatever its direction."""

    @classmethod
    def like(cls, motion: ProbeMotion, strength: float, *, seed: int) -> RandomDirectionBlock:
        """The control of ``Block(motion, strength)``; the seed draws the directions, uniformly on the sphere."""
        unit = isotropic_directions(1, *motion.unit.shape, seed=seed)[0]
        return cls(replace(motion, unit=unit.to(motion.unit)), strength)
