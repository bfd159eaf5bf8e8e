"""Record activations, whole or as projections only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import SiteError
from revlens.hooks.bridges import the_bridge
from revlens.hooks.forward_pass import ForwardPass, follow, goes_backward
from revlens.hooks.generation import Generation
from revlens.hooks.names import check_names, hooked, point_name
from revlens.hooks.subspaces import Basis, Directions, by_layer, coordinates


@contextmanager
def record(
    model: nn.Module, names: Sequence[str], select: Callable[[Tensor], Tensor] | None = None
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
        ModelError: see `revlens.hooks.bridges.the_bridge`.
    """
    bridge = the_bridge(model)
    check_names(bridge, names)
    kept: dict[str, Tensor] = {}

    def keep_as(name: str) -> Callable[[Tensor, object], None]:
        # A hook only learns its point's canonical name; the caller gets back the spelling that it gave.
        def keep(activation: Tensor, hook: object) -> None:
            kept[name] = activation if select is None else select(activation)

        return keep

    with hooked(bridge, [(name, keep_as(name)) for name in names]):
        yield kept


@dataclass
class Projections:
    """Coordinates of activations in a basis per layer, of the latest prompt and the answer generated to it.

    Attributes:
        bases: the basis of each layer.
        pieces: those of each forward pass, by layer.
        generation: the call of ``generate`` that they come from.
    """

    bases: Mapping[int, Basis]
    pieces: dict[int, list[Float[Tensor, "batch pos k"]]] = field(default_factory=dict)
    generation: Generation | None = None

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
        if self.generation is not None:
            values = values[:, : self.generation.n_kept]
        return values[..., 0] if len(self.bases[layer]) == 1 else values


@contextmanager
def record_projections(
    model: nn.Module,
    directions: Directions,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
) -> Iterator[Projections]:
    """Record projections <h, v> only, of every token including padding, in float32 at least.

    Memory is one number per token and direction, never d_model. Under `generate` with a KV cache the
    projections of generated tokens follow those of the prompt; a forward pass without a cache starts anew.
    Drafts that assisted generation discards leave none.

    Args:
        model: any bridge.
        directions: see `revlens.hooks.Directions`.
        layers: which of them; all if None.
        component: of the block, e.g. ``resid_post``, ``attn_out``.

    Raises:
        HookNameError: if the model has no such component.
        ModelError: see `revlens.hooks.bridges.the_bridge`.
        SiteError, NonFiniteError: see `revlens.hooks.subspaces.by_layer`; SiteError also if a pass goes on
            after tokens that were not recorded, or generation makes rows change places (beams).
    """
    bridge = the_bridge(model)
    bases = by_layer(directions, bridge.cfg.n_layers, bridge.cfg.d_model, layers)
    names = {layer: point_name(layer, component) for layer in bases}
    check_names(bridge, names.values())
    kept = Projections(bases)
    with follow(bridge, names.values()) as followed:

        def keep_at(layer: int) -> Callable[[Tensor, object], None]:
            def keep(activation: Tensor, hook: object) -> None:
                if goes_backward():  # gradient checkpointing runs the block again
                    return
                latest = followed.latest
                latest.fired.add(names[layer])
                latest.columns_of(names[layer], activation)
                past = _read_before(latest, kept, layer)
                kept.pieces[layer] = [*past, coordinates(activation, bases[layer])]
                kept.generation = latest.generation

            return keep

        with hooked(bridge, [(name, keep_at(layer)) for layer, name in names.items()]):
            yield kept


def _read_before(latest: ForwardPass, kept: Projections, layer: int) -> list[Tensor]:
    """Pieces of the columns before a pass; those of drafts that generation has discarded are dropped."""
    generation = latest.generation
    if generation is not None and (generation.mixed or generation.beams):
        raise SiteError(
            f"Projections cannot follow generation with {generation.mixed or 'beams, which change places'}; "
            "record a forward pass over the generated text."
        )
    if not latest.goes_on:
        return []
    pieces = kept.pieces.get(layer, [])
    n_read = sum(piece.shape[1] for piece in pieces)
    if latest.n_past is None or n_read < latest.n_past or kept.generation is not latest.generation:
        raise SiteError(
            f"A forward pass goes on after {latest.n_past or 'unknown'} columns, of which {n_read} are "
            "recorded; open record_projections before the prompt runs, and let one text run at a time."
        )
    return pieces if n_read == latest.n_past else [torch.cat(pieces, dim=1)[:, : latest.n_past]]
