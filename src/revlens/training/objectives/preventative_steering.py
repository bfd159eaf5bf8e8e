"""Preventative steering: puts the model part of the way back while the task is learned, and only then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import ConfigError, GuardError
from revlens.hooks import Edit
from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion
from revlens.training.state import State, matched
from revlens.training.streams import edit_streams


@dataclass
class PreventativeSteering(Guard):
    """h <- h + dose * (gap_l v_l - gap_k v_k) during the task's passes, with k the guarded layer before l.

    The task's stream lies towards the reference already, so the task need not move the model there, and the
    addition is taken away after it (Chen et al. 2025, arXiv 2507.21509). As in their work it acts at every
    token. What a layer adds stays in the stream above it, so each guarded layer adds the difference from the
    one before: the additions up to a layer make dose * gap * v.

    Attributes:
        unit: v at each layer, of norm 1, towards the reference.
        gap: the length of a full reversion at each layer, in activation units.
        layers: increasing layer indices, in the order of the layer axis.
        dose: in gaps; 1 is the whole way from the aligned model to the reference.

    Raises:
        ConfigError: if the dose is not positive and finite.
    """

    unit: Float[Tensor, "layer d_model"]
    gap: Float[Tensor, " layer"]
    layers: tuple[int, ...]
    dose: float

    def __post_init__(self) -> None:
        if not 0.0 < self.dose < math.inf:
            raise ConfigError(
                f"dose={self.dose} is a share of the gap to the reference; it must be positive and finite."
            )

    @classmethod
    def along(cls, motion: ProbeMotion, dose: float) -> PreventativeSteering:
        """Steer along the direction of a motion, at its layers; its probes are not used."""
        return cls(motion.unit, motion.gap, motion.layers, dose)

    @property
    def additions(self) -> Mapping[int, Float[Tensor, " d_model"]]:
        """What each layer adds to the stream, in activation units."""
        totals = self.dose * self.gap[:, None] * self.unit
        return dict(
            zip(self.layers, torch.diff(totals, dim=0, prepend=torch.zeros_like(totals[:1])), strict=True)
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {"unit": self.unit, "gap": self.gap, "layers": torch.tensor(self.layers)}

    def load_state_dict(self, state: State) -> None:
        saved = matched(self, state)
        if saved["layers"].tolist() != list(self.layers):
            raise GuardError(
                f"The training that is resumed steered at layers {saved['layers'].tolist()}, this guard at "
                f"{list(self.layers)}; make it as there."
            )
        self.unit, self.gap = saved["unit"], saved["gap"]

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        return edit_streams(model, {layer: _adding(step) for layer, step in self.additions.items()})


def _adding(step: Float[Tensor, " d_model"]) -> Edit:
    def edit(h: Tensor) -> Tensor:
        wide = torch.promote_types(h.dtype, torch.float32)
        return (h.to(wide) + step.to(h.device, wide)).to(h.dtype)

    return edit
