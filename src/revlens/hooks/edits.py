"""Edits of activations, and hook functions that apply them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from revlens.errors import NonFiniteError
from revlens.hooks.subspaces import Basis, coordinates, orthonormal

#: Activations in, activations of the same shape and dtype out.
Edit = Callable[[Tensor], Tensor]
#: A hook function as TransformerLens calls it.
Hook = Callable[[Tensor, Any], Tensor]


def moved_to(basis: Basis, target: Float[Tensor, "*k"] | float, *, relative: bool = False) -> Edit:
    """The edit that sets the coordinates in a basis to a target, or adds the target to them if ``relative``.

    Ablation, clamping and addition are all of this form: h + (target - h V^T) V, or h + target V.
    """

    def edit(h: Tensor) -> Tensor:
        here = coordinates(h, basis)
        goal = torch.as_tensor(target, dtype=here.dtype, device=h.device)
        step = goal.expand_as(here) if relative else goal - here
        return (h.to(here.dtype) + step @ basis.to(h.device, here.dtype)).to(h.dtype)

    return edit


def as_hook(edit: Edit) -> Hook:
    """An edit of all tokens as a hook function for ``model.hooks`` or ``model.run_with_hooks``."""

    def hook_function(activation: Tensor, hook: Any) -> Tensor:
        # A bridge in compatibility mode calls it a second time where it was attached by an alias.
        again = getattr(hook, "_target", hook)
        return activation if getattr(again, "name", None) != getattr(hook, "name", None) else edit(activation)

    return hook_function


def ablate_direction(direction: Float[Tensor, "*k d_model"]) -> Hook:
    """Hook function that projects out a direction, or the span of several: h - <h, v> v.

    Raises:
        NonFiniteError: see `revlens.hooks.subspaces.orthonormal`.
    """
    return as_hook(moved_to(orthonormal(direction), 0.0))


def add_direction(direction: Float[Tensor, "*k d_model"], alpha: float | Float[Tensor, " k"]) -> Hook:
    """Hook function that adds ``alpha`` (in activation units) times the unit vector: h + alpha v.

    Raises:
        NonFiniteError: see `revlens.hooks.subspaces.orthonormal`; also if ``alpha`` is NaN or infinite.
    """
    return as_hook(moved_to(orthonormal(direction), finite(alpha, "alpha"), relative=True))


def clamp_direction(direction: Float[Tensor, "*k d_model"], value: float | Float[Tensor, " k"]) -> Hook:
    """Hook function that sets the projection to ``value`` (in activation units): h + (value - <h, v>) v.

    Raises:
        NonFiniteError: see `revlens.hooks.subspaces.orthonormal`; also if ``value`` is NaN or infinite.
    """
    return as_hook(moved_to(orthonormal(direction), finite(value, "value")))


def finite(value: float | Float[Tensor, "*k"], name: str) -> float | Float[Tensor, "*k"]:
    """The value itself.

    Raises:
        NonFiniteError: if it is NaN or infinite.
    """
    if not torch.as_tensor(value).isfinite().all():
        raise NonFiniteError(f"{name}={value} must be finite.")
    return value
