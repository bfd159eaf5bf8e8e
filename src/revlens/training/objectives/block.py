"""Block: a penalty on motion along v_rev."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion


@dataclass(frozen=True)
class Block(Guard):
    """strength * mean_l relu(p_l)^2: opposes positive motion along the direction (arXiv 2606.28525), leaves negative free.

    Attributes:
        motion: on which probes, at which layers, along what.
        strength: nats per squared activation unit.
    """

    motion: ProbeMotion
    strength: float

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        return self.strength * torch.relu(self.motion.displacement(model)).square().mean()
