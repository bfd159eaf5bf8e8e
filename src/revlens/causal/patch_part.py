"""Which part of an activation a patch replaces: all, its component along v_rev, or all but that component."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from revlens.direction import ReversionDirection
from revlens.errors import ConfigError

#: ``full``: the whole activation; ``along``: its component along v_rev; ``orthogonal``: everything but that
#: component.
Part = Literal["full", "along", "orthogonal"]
PARTS: tuple[str, ...] = get_args(Part)

#: The patched activations ``[prompt d_model]`` from the recipient's and the donor's, at a layer.
Replace = Callable[[Tensor, Tensor, int], Tensor]


def replace_all(recipient: Tensor, donor: Tensor, layer: int) -> Tensor:
    """The donor's activations."""
    return donor


def replacement(
    part: str, v_rev: ReversionDirection | None, layers: tuple[int, ...], d_model: int
) -> Replace:
    """How to replace a part.

    Raises:
        ConfigError: on an unknown part, or if v_rev does not fit the part, the layers or the width.
    """
    if part not in PARTS:
        raise ConfigError(f"Unknown part {part!r}; expected one of {', '.join(PARTS)}.")
    if part == "full":
        if v_rev is not None:
            raise ConfigError(
                "part='full' replaces whole activations and uses no v_rev; "
                "choose part='along' or 'orthogonal'."
            )
        return replace_all
    if v_rev is None:
        raise ConfigError(f"part={part!r} needs v_rev; locate it first.")
    missing = sorted(set(layers) - set(v_rev.layers))
    if missing:
        raise ConfigError(
            f"v_rev has layers {v_rev.layers}, but layers {missing} are patched too; choose layers in sites."
        )
    if v_rev.unit.shape[1] != d_model:
        raise ConfigError(f"v_rev has width {v_rev.unit.shape[1]}; the model's is {d_model}.")
    units = dict(zip(v_rev.layers, v_rev.unit, strict=True))

    def replace(h: Tensor, d: Tensor, layer: int) -> Tensor:
        dtype = torch.promote_types(h.dtype, torch.float32)
        v = units[layer].to(h.device, dtype)
        along = ((d.to(dtype) - h.to(dtype)) @ v)[:, None] * v
        return (h + along if part == "along" else d - along).to(h.dtype)

    return replace
