"""Control: block everything but v_rev."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion, with_gradient


@dataclass(frozen=True)
class ComplementBlock(Guard):
    """strength * mean_l ||D_l - p_l v_l||^2: opposes every motion of the mean probe activation but the one along v_rev.

    If the direction is what matters, holding the other d_model - 1 still protects less than holding this one.

    Attributes:
        motion: on which probes, at which layers, along what.
        strength: nats per squared activation unit.
    """

    motion: ProbeMotion
    strength: float

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        drift, unit = with_gradient(self.motion.drift(model)), self.motion.unit
        rest = drift - (drift * unit).sum(-1, keepdim=True) * unit
        return self.strength * rest.square().sum(-1).mean()
