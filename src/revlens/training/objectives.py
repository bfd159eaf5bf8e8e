"""Terms that a guard adds to the task loss, as functions of the motion of probe activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.capture import read_batch, read_prompts
from revlens.activations.sites import Sites
from revlens.direction import ReversionDirection
from revlens.errors import GuardError
from revlens.prompts import Batch, encode_prompts, pad_id_of, pad_left


@runtime_checkable
class Guard(Protocol):
    """A term added to the task loss at every update."""

    def term(self, model: TransformerBridge) -> Float[Tensor, ""]:
        """The term at the model's present weights, with a gradient."""
        ...


@dataclass(frozen=True)
class ProbeMotion:
    """Displacement p_l of the mean probe activation along a direction, relative to the aligned model.

    Attributes:
        batch: the guard probes, tokenized.
        start: their mean activation under the aligned model.
        unit: the directions, of norm 1 at each layer.
        gap: the length of a full reversion at each layer, in activation units.
        sites: where activations are read.
    """

    batch: Batch
    start: Float[Tensor, "layer d_model"]
    unit: Float[Tensor, "layer d_model"]
    gap: Float[Tensor, " layer"]
    sites: Sites

    @classmethod
    def along(cls, v_rev: ReversionDirection, aligned: TransformerBridge, prompts: Sequence[str]) -> ProbeMotion:
        """Fix the starting point at the aligned model, on the guard probes.

        Raises:
            GuardError: if v_rev and the model differ in width or layers.
            ProbeError, NonFiniteError: see `revlens.activations.read_prompts`.
        """
        if v_rev.unit.shape[1] != aligned.cfg.d_model or max(v_rev.layers) >= aligned.cfg.n_layers:
            raise GuardError(
                f"v_rev is for layers {v_rev.layers} of width {v_rev.unit.shape[1]}; "
                f"the model has {aligned.cfg.n_layers} layers of width {aligned.cfg.d_model}."
            )
        sites = Sites(layers=v_rev.layers)
        start = read_prompts(aligned, prompts, sites).mean(0)
        batch = pad_left(encode_prompts(aligned.tokenizer, prompts), pad_id_of(aligned.tokenizer))
        device = next(aligned.parameters()).device
        return cls(batch, start.to(device), v_rev.unit.float().to(device), v_rev.gap.float().to(device), sites)

    def displacement(self, model: TransformerBridge) -> Float[Tensor, " layer"]:
        """p_l at the model's present weights, in activation units, with a gradient.

        Raises:
            GuardError: if the activations carry no gradient (a frozen model, or `torch.no_grad`).
        """
        mean = read_batch(model, self.batch, self.sites).float().mean(0)
        if not mean.requires_grad:
            raise GuardError("The probe activations carry no gradient, so the guard cannot act: is the model frozen or under no_grad?")
        return ((mean - self.start) * self.unit).sum(-1)


@dataclass(frozen=True)
class Block:
    """strength * mean_l relu(p_l)^2: opposes positive motion along the direction (arXiv 2606.28525), leaves negative free."""

    motion: ProbeMotion
    strength: float

    def term(self, model: TransformerBridge) -> Float[Tensor, ""]:
        return self.strength * torch.relu(self.motion.displacement(model)).square().mean()


@dataclass(frozen=True)
class Push:
    """strength * mean_l relu(target * gap_l - p_l)^2: reinforces positive motion up to a clamped target, then rests.

    Attributes:
        target: where it rests, as a reversion fraction (1 = the reference's own position along v_rev).
    """

    motion: ProbeMotion
    strength: float
    target: float = 1.0

    def term(self, model: TransformerBridge) -> Float[Tensor, ""]:
        shortfall = self.target * self.motion.gap - self.motion.displacement(model)
        return self.strength * torch.relu(shortfall).square().mean()
