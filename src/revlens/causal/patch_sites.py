"""Patch sites: the single activations that a sweep patches, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.hooks import check_names, point_name


class PatchSite(NamedTuple):
    """One activation vector of every prompt.

    Attributes:
        layer: of the block, from 0.
        position: of the token, counted from the end: -1 is the last prompt token.
        head: attention head, where the component has heads.
    """

    layer: int
    position: int
    head: int | None = None


#: The new activations of some prompts at a site, from their current ones ``[prompt d]`` and the prompts'
#: indices.
Patch = Callable[[Tensor, PatchSite, Sequence[int]], Tensor]


def patch_sites(
    layers: Iterable[int], positions: Iterable[int], heads: Iterable[int] | None = None
) -> tuple[PatchSite, ...]:
    """Every layer by position (by head), in that order."""
    return tuple(PatchSite(*site) for site in product(layers, positions, (None,) if heads is None else heads))


def patched_points(model: TransformerBridge, layers: Iterable[int], component: str) -> dict[int, str]:
    """Hook point of a component (see `revlens.activations.COMPONENTS`; ``z``: the heads' outputs) by layer.

    Names are the hook points' own: under an alias, a bridge in compatibility mode calls a hook function
    twice.

    Raises:
        HookNameError: if the model has no such component at a layer.
    """
    names = {
        layer: f"blocks.{layer}.attn.hook_z" if component == "z" else point_name(layer, component)
        for layer in layers
    }
    check_names(model, names.values())
    points = model.hook_dict
    return {layer: points[name].name or name for layer, name in names.items()}


def patch_rows(
    activation: Tensor, rows: Mapping[PatchSite, slice], patch: Patch, prompts: Sequence[int]
) -> Tensor:
    """Patch ``[row pos (head) d]`` at each site, in the rows that belong to it.

    In place: TransformerLens' hook_resid_mid lies on the branch into the MLP. The skip connection past it
    sees a change of the tensor that both share, and not a tensor that a hook returns.
    """
    for site, own in rows.items():
        where = (own, site.position) if site.head is None else (own, site.position, site.head)
        activation[where] = patch(activation[where], site, prompts)
    return activation
