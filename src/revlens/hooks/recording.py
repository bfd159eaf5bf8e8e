"""Record activations, whole or as projections only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.hooks.forward_pass import follow
from revlens.hooks.names import check_names, point_name
from revlens.hooks.subspaces import Basis, Directions, by_layer, coordinates


@contextmanager
def record(
    model: TransformerBridge, names: Sequence[str], select: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record activations at the named hook points while the context is open.

    Each forward pass refills the yielded dict. Tensors keep their graph, so that a loss can be built on them;
    run under `torch.no_grad` where you need none. The hooks come off on exit, after an exception too.

    Args:
        model: any bridge.
        names: hook points, in TransformerLens names (``blocks.0.hook_resid_post`` or ``blocks.0.hook_out``).
        select: applied to each activation before it is kept, e.g. to take one position; all of it if None.

    Raises:
        HookNameError: if a name matches no hook point.
    """
    check_names(model, names)
    kept: dict[str, Tensor] = {}

    def keep_as(name: str) -> Callable[[Tensor, object], None]:
        # A hook only learns its point's canonical name; the caller gets back the spelling that it gave.
        def keep(activation: Tensor, hook: object) -> None:
            kept[name] = activation if select is None else select(activation)

        return keep

    with model.hooks(fwd_hooks=[(name, keep_as(name)) for name in names]):
        yield kept


@dataclass
class Projections:
    """Coordinates of activations in a basis per layer, of the latest prompt and the answer generated to it.

    Attributes:
        bases: the basis of each layer.
        pieces: one of each forward pass, by layer.
    """

    bases: Mapping[int, Basis]
    pieces: dict[int, list[Float[Tensor, "batch pos k"]]] = field(default_factory=dict)

    def __getitem__(self, layer: int) -> Float[Tensor, "batch pos *k"]:
        """Projections at a layer; the last axis is there only if the basis has more than one vector.

        Raises:
            SiteError: if the layer is not recorded, or no forward pass has run.
        """
        if layer not in self.bases:
            raise SiteError(f"Layer {layer} is not recorded; there are {sorted(self.bases)}.")
        if layer not in self.pieces:
            raise SiteError("No forward pass has run yet, so there are no projections.")
        values = torch.cat(self.pieces[layer], dim=1)
        return values[..., 0] if len(self.bases[layer]) == 1 else values


@contextmanager
def record_projections(
    model: TransformerBridge,
    directions: Directions,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
) -> Iterator[Projections]:
    """Record projections <h, v> only, of every token including padding, in float32 at least.

    Memory is one number per token and direction, never d_model. Under `generate` with a KV cache the
    projections of generated tokens follow those of the prompt; a forward pass without a cache starts anew.

    Args:
        model: any bridge.
        directions: see `revlens.hooks.Directions`.
        layers: which of them; all if None.
        component: of the block, e.g. ``resid_post``, ``attn_out``.

    Raises:
        HookNameError: if the model has no such component.
        SiteError, NonFiniteError: see `revlens.hooks.subspaces.by_layer`.
    """
    bases = by_layer(directions, model.cfg.n_layers, model.cfg.d_model, layers)
    check_names(model, [point_name(layer, component) for layer in bases])
    kept = Projections(bases)
    with follow(model) as latest:

        def keep_at(layer: int) -> Callable[[Tensor, object], None]:
            def keep(activation: Tensor, hook: object) -> None:
                if latest.n_past == 0:
                    kept.pieces[layer] = []
                kept.pieces[layer].append(coordinates(activation, bases[layer]))

            return keep

        with model.hooks(fwd_hooks=[(point_name(layer, component), keep_at(layer)) for layer in bases]):
            yield kept
