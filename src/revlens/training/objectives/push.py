"""Push: the causal counterpart of block, motion along v_rev reinforced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion


@dataclass(frozen=True)
class Push(Guard):
    """strength * mean_l relu(target * gap_l - p_l)^2: reinforces positive motion up to a clamped target, then rests.

    The paper's push arm (arXiv 2606.28525), with a target so that it does not blow up.

    Attributes:
        motion: on which probes, at which layers, along what.
        strength: nats per squared activation unit.
        target: where it rests, as a reversion fraction (1 = the reference's own position along v_rev).
    """

    motion: ProbeMotion
    strength: float
    target: float = 1.0

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        shortfall = self.target * self.motion.gap - self.motion.displacement(model)
        return self.strength * torch.relu(shortfall).square().mean()
