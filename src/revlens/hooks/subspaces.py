"""Directions and subspaces of the residual stream, per layer, and the coordinates of activations in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from revlens.errors import NonFiniteError, SiteError

#: An orthonormal basis, one vector per row.
Basis = Float[Tensor, "k d_model"]


@runtime_checkable
class LayerDirections(Protocol):
    """An object with one direction per layer, such as `revlens.ReversionDirection`."""

    @property
    def unit(self) -> Float[Tensor, "layer d_model"]: ...

    @property
    def layers(self) -> tuple[int, ...]: ...


#: One vector [d_model] for every layer; a vector or a subspace (vectors in rows) by layer; or
#: `LayerDirections`.
Directions = Tensor | Mapping[int, Tensor] | LayerDirections


def orthonormal(vectors: Float[Tensor, "*k d_model"]) -> Basis:
    """An orthonormal basis of the span of one vector, or of the rows of a matrix, in float32 at least.

    The first row keeps the direction of the first vector.

    Raises:
        NonFiniteError: if a vector holds NaN or infinity or is zero, or the rows are linearly dependent.
    """
    rows = torch.atleast_2d(vectors)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if not rows.isfinite().all():
        raise NonFiniteError("A direction holds NaN or infinity.")
    lengths = rows.norm(dim=-1, keepdim=True)
    if bool((lengths == 0).any()):
        raise NonFiniteError("A direction has length zero; it points nowhere.")
    q, r = torch.linalg.qr((rows / lengths).T)
    scale = r.diagonal()
    if len(rows) > q.shape[0] or bool((scale.abs() < 1e-6).any()):
        raise NonFiniteError(f"The {len(rows)} vectors are linearly dependent; give a basis of the subspace.")
    return (q * scale.sign()).T


def by_layer(
    directions: Directions, n_layers: int, d_model: int, layers: Sequence[int] | None = None
) -> dict[int, Basis]:
    """An orthonormal basis for each chosen layer.

    Args:
        directions: see `Directions`.
        n_layers: of the model.
        d_model: of the model.
        layers: which layers; all that ``directions`` has (or all of the model, for a single vector) if None.

    Raises:
        SiteError: if a layer lies beyond the model or has no direction, or a width is not the model's.
        NonFiniteError: see `orthonormal`.
    """
    if isinstance(directions, Tensor):
        if directions.ndim != 1:
            raise SiteError(
                "A tensor of directions must be one vector [d_model] for every layer, got shape "
                f"{tuple(directions.shape)}; for other cases give a mapping "
                "{layer: vector or rows of a subspace}."
            )
        given: Mapping[int, Tensor] = dict.fromkeys(range(n_layers), directions)
    elif isinstance(directions, Mapping):
        given = directions
    else:
        given = dict(zip(directions.layers, directions.unit, strict=True))
    chosen = sorted(given) if layers is None else list(layers)
    if not chosen:
        raise SiteError("No layer chosen.")
    for layer in chosen:
        if not 0 <= layer < n_layers:
            raise SiteError(f"Layer {layer} does not exist: the model has layers 0 to {n_layers - 1}.")
        if layer not in given:
            raise SiteError(
                f"There is no direction for layer {layer}; there are directions for {sorted(given)}."
            )
        if given[layer].shape[-1] != d_model:
            width = given[layer].shape[-1]
            raise SiteError(f"The direction of layer {layer} has width {width}; the model's is {d_model}.")
    return {layer: orthonormal(given[layer]) for layer in chosen}


def coordinates(h: Float[Tensor, "*batch d_model"], basis: Basis) -> Float[Tensor, "*batch k"]:
    """Coordinates in an orthonormal basis, in float32 at least: in bfloat16 small ones would be lost."""
    dtype = torch.promote_types(h.dtype, torch.float32)
    return h.to(dtype) @ basis.to(h.device, dtype).T
