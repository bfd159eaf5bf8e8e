"""Block for a subspace, which has no sense of forward: motion within it is opposed either way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.hooks import Basis, Directions, by_layer
from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion, with_gradient


@dataclass(frozen=True)
class SubspaceBlock(Guard):
    """strength * mean_l ||V_l D_l||^2, V_l an orthonormal basis of the layer's subspace (arXiv 2606.28525 for one direction).

    Attributes:
        motion: on which probes and at which layers; its direction is not used.
        bases: an orthonormal basis for each of these layers.
        strength: nats per squared activation unit.
    """

    motion: ProbeMotion
    bases: tuple[Basis, ...]
    strength: float

    @classmethod
    def within(cls, motion: ProbeMotion, subspaces: Directions, strength: float) -> SubspaceBlock:
        """Block the span of some vectors at each layer of the motion.

        Raises:
            SiteError, NonFiniteError: if a layer has no subspace or vectors are dependent, see `revlens.hooks.subspaces.by_layer`.
        """
        bases = by_layer(subspaces, max(motion.layers) + 1, motion.unit.shape[1], motion.layers)
        return cls(motion, tuple(basis.to(motion.unit) for basis in bases.values()), strength)

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        drift = with_gradient(self.motion.drift(model))
        squares = [(basis.to(d.dtype) @ d).square().sum() for basis, d in zip(self.bases, drift, strict=True)]
        return self.strength * torch.stack(squares).mean()
