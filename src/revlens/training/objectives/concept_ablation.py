"""Concept ablation: removes v_rev from the residual stream while the task is learned, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.hooks import moved_to
from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion
from revlens.training.streams import edit_streams


@dataclass(frozen=True)
class ConceptAblation(Guard):
    """h <- h + (c - <h, v>) v at every token during the task's passes.

    The task then gains nothing by moving along v_rev and is learned in other directions (Casademunt et al.
    2025, arXiv 2507.16795).

    Attributes:
        unit: the direction at each layer, of norm 1.
        coordinates: c at each layer, in activation units; the paper's is 0.
    """

    unit: Mapping[int, Float[Tensor, " d_model"]]
    coordinates: Mapping[int, float]

    @classmethod
    def ablating(cls, motion: ProbeMotion) -> ConceptAblation:
        """Project the direction out (c = 0)."""
        return cls(dict(zip(motion.layers, motion.unit, strict=True)), dict.fromkeys(motion.layers, 0.0))

    @classmethod
    def clamping(cls, motion: ProbeMotion) -> ConceptAblation:
        """Hold the coordinate at the aligned model's mean over the guard probes."""
        means = (motion.start * motion.unit).sum(-1).tolist()
        return cls(
            dict(zip(motion.layers, motion.unit, strict=True)), dict(zip(motion.layers, means, strict=True))
        )

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        target = {layer: torch.tensor([value]) for layer, value in self.coordinates.items()}
        return edit_streams(
            model, {layer: moved_to(unit[None], target[layer]) for layer, unit in self.unit.items()}
        )
