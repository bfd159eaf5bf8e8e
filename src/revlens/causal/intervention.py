"""Interventions on the projection on v_rev: what is done, with which directions, as a context on a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens import hooks
from revlens.errors import ConfigError


@dataclass(frozen=True)
class Action:
    """What is done to the projection on a direction v.

    Attributes:
        kind: ``ablate``: h - <h, v> v; ``clamp``: h + (c - <h, v>) v, c the clamp mean's projection; ``add``:
            h + dose * gap * v.
        dose: for ``add``, in gaps: 1 is the whole way from the aligned model to the reference.

    Raises:
        ConfigError: if ``add`` has no dose, or another kind has one.
    """

    kind: Literal["ablate", "clamp", "add"]
    dose: float | None = None

    def __post_init__(self) -> None:
        if (self.kind == "add") != (self.dose is not None):
            raise ConfigError(
                f"Action {self.kind!r} with dose={self.dose}: "
                "add needs a dose, in gaps; ablate and clamp take none."
            )

    @property
    def name(self) -> str:
        """``ablate``, ``clamp`` or e.g. ``add +0.5``."""
        return action_label(self.kind, self.dose)


@dataclass(frozen=True)
class Intervention:
    """An action on one direction per layer, ready to be applied to a model.

    Attributes:
        action: what is done.
        unit: the directions, of norm 1.
        gap: what a dose of 1 is at each layer, in activation units.
        layers: of the layer axis.
        clamp_mean: mean activations, such as the aligned model's; ``clamp`` sets projections to theirs.
    """

    action: Action
    unit: Float[Tensor, "layer d_model"]
    gap: Float[Tensor, " layer"]
    layers: tuple[int, ...]
    clamp_mean: Float[Tensor, "layer d_model"]

    def on(
        self,
        model: nn.Module,
        layers: Sequence[int],
        *,
        tokens: hooks.Tokens = "last_prompt",
        prompt_length: Tensor | None = None,
    ) -> AbstractContextManager[None]:
        """The intervention as a context, at chosen layers of the residual stream after their blocks.

        By default at the last prompt token, where v_rev, its gap and the clamp mean are measured. Projections
        of other tokens lie elsewhere: to clamp generated tokens to the clamp mean leaves no language at all
        (see docs/lab-notes.md).

        Raises:
            HookNameError, SiteError, NonFiniteError: see `revlens.hooks.contexts`.
        """
        directions = dict(zip(self.layers, self.unit, strict=True))
        if self.action.kind == "ablate":
            return hooks.ablate(model, directions, layers=layers, tokens=tokens, prompt_length=prompt_length)
        if self.action.kind == "clamp":
            value = dict(zip(self.layers, (self.clamp_mean * self.unit).sum(-1).tolist(), strict=True))
            return hooks.clamp(
                model, directions, value, layers=layers, tokens=tokens, prompt_length=prompt_length
            )
        assert self.action.dose is not None
        alpha = dict(zip(self.layers, (self.action.dose * self.gap).tolist(), strict=True))
        return hooks.add(model, directions, alpha, layers=layers, tokens=tokens, prompt_length=prompt_length)

    def moves(self, h: Mapping[int, Float[Tensor, "prompt d_model"]]) -> Float[Tensor, "prompt layer"]:
        """How far it moves activations along its directions: signed, in activation units.

        Args:
            h: activations before the action, by layer.
        """
        moved = []
        for layer, activations in h.items():
            i = self.layers.index(layer)
            along = activations.double().cpu() @ self.unit[i].double()
            if self.action.dose is not None:
                moved.append((self.action.dose * self.gap[i]).double().expand_as(along))
            else:
                target = self.clamp_mean[i] @ self.unit[i] if self.action.kind == "clamp" else 0.0
                moved.append(target - along)
        return torch.stack(moved, dim=-1)

    def matched(
        self, unit: Float[Tensor, "layer d_model"], displacement: Float[Tensor, " layer"]
    ) -> Intervention:
        """Its control along other directions: an addition that moves activations as far.

        To ablate or clamp along any other direction moves activations much less than along v_rev, so that
        such a control would do nothing for that reason alone.

        Args:
            unit: the other directions, of norm 1.
            displacement: how far this intervention moves activations at each layer, see
                `revlens.causal.displacement`.
        """
        return replace(self, action=Action("add", 1.0), unit=unit, gap=displacement)


def action_label(kind: str, dose: float | None) -> str:
    """``"clamp"``, or with a dose ``"add +0.5"``; in tables a missing dose is NaN."""
    return kind if dose is None or math.isnan(dose) else f"{kind} {dose:+g}"
