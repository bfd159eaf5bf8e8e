"""Block, and the variants of its penalty on the motion of the mean probe activation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.direction import isotropic_directions
from revlens.hooks import Basis, Directions, by_layer
from revlens.training.motion import ProbeMotion
from revlens.training.objectives.motion_guard import MotionGuard
from revlens.training.state import State, matched, named_within
from revlens.training.streams import require_gradient


@dataclass
class Block(MotionGuard):
    """strength * mean_l relu(p_l)^2: opposes positive motion along the direction (arXiv 2606.28525).

    Negative motion is free.

    Attributes:
        motion: on which probes, at which layers, along what.
        strength: nats per squared activation unit.
    """

    strength: float

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        return self.strength * torch.relu(self.motion.displacement(model)).square().mean()


@dataclass
class Push(MotionGuard):
    """strength * mean_l relu(target * gap_l - p_l)^2: reinforces positive motion up to a target, then rests.

    The causal counterpart of block: the paper's push arm (arXiv 2606.28525), with a target that bounds it.

    Attributes:
        motion: on which probes, at which layers, along what.
        strength: nats per squared activation unit.
        target: where it rests, as a reversion fraction (1: the reference's own position along v_rev).
    """

    strength: float
    target: float = 1.0

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        shortfall = self.target * self.motion.gap - self.motion.displacement(model)
        return self.strength * torch.relu(shortfall).square().mean()


@dataclass
class RandomDirectionBlock(Block):
    """Control: block along a random unit direction at each layer.

    It shows what the penalty does in any direction, v_rev or not.
    """

    @classmethod
    def like(cls, motion: ProbeMotion, strength: float, *, seed: int) -> RandomDirectionBlock:
        """The control of ``Block(motion, strength)``; the seed draws directions uniformly on the sphere."""
        unit = isotropic_directions(1, *motion.unit.shape, seed=seed)[0]
        return cls(replace(motion, unit=unit.to(motion.unit)), strength)


@dataclass
class ComplementBlock(MotionGuard):
    """Control: strength * mean_l ||D_l - p_l v_l||^2, which opposes all motion but that along v_rev.

    If v_rev is what matters, to hold the other d_model - 1 directions protects less than to hold this one.

    Attributes:
        motion: on which probes, at which layers, along what.
        strength: nats per squared activation unit.
    """

    strength: float

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        drift, unit = require_gradient(self.motion.drift(model)), self.motion.unit
        rest = drift - (drift * unit).sum(-1, keepdim=True) * unit
        return self.strength * rest.square().sum(-1).mean()


@dataclass
class SubspaceBlock(MotionGuard):
    """strength * mean_l ||V_l D_l||^2, with V_l an orthonormal basis of the layer's subspace.

    Block (arXiv 2606.28525) for more than one direction. A subspace has no sense of forward, so motion within
    it is opposed either way.

    Attributes:
        motion: on which probes and at which layers; its direction is not used.
        bases: an orthonormal basis for each of these layers.
        strength: nats per squared activation unit.
    """

    bases: tuple[Basis, ...]
    strength: float

    @classmethod
    def within(cls, motion: ProbeMotion, subspaces: Directions, strength: float) -> SubspaceBlock:
        """Block the span of some vectors at each layer of the motion.

        Raises:
            SiteError: if a layer has no subspace; see `revlens.hooks.by_layer`.
            NonFiniteError: if vectors are dependent; see `revlens.hooks.by_layer`.
        """
        bases = by_layer(subspaces, max(motion.layers) + 1, motion.unit.shape[1], motion.layers)
        return cls(motion, tuple(basis.to(motion.unit) for basis in bases.values()), strength)

    def state_dict(self) -> dict[str, Tensor]:
        bases = {str(layer): basis for layer, basis in zip(self.motion.layers, self.bases, strict=True)}
        return {**super().state_dict(), **named_within("bases", bases)}

    def load_state_dict(self, state: State) -> None:
        saved = matched(self, state)
        super().load_state_dict(state)
        self.bases = tuple(saved[f"bases.{layer}"] for layer in self.motion.layers)

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        drift = require_gradient(self.motion.drift(model))
        squares = [(basis.to(d.dtype) @ d).square().sum() for basis, d in zip(self.bases, drift, strict=True)]
        return self.strength * torch.stack(squares).mean()
