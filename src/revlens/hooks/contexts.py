"""Contexts that edit activations in forward passes and generation, at chosen layers, tokens and rows.

All of them take a `TransformerBridge` and, where their signature names them, these choices:
    layers: which layers; if None, all that the directions have (of a single vector, all of the model).
    component: of the block: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` or ``mlp_out``.
    tokens, rows, prompt_length: see `revlens.hooks.tokens.TokenFilter`.
and raise:
    HookNameError: if the model has no such component at a layer.
    ModelError: see `revlens.hooks.bridges.the_bridge`.
    SiteError: if a layer, a direction, an amount or a row does not exist, or has another shape; in a forward
        pass whose tokens cannot be told apart, or that leaves out an edited hook point of a block; on
        closing, if forward passes ran and none of their tokens was selected.
    NonFiniteError: if a direction or an amount holds NaN or infinity, or directions are zero or linearly
        dependent.
    ConfigError: in a forward pass over more tokens than the model has positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.hooks.bridges import the_bridge
from revlens.hooks.editing import EditAt, editing
from revlens.hooks.edits import Edit, finite, moved_to
from revlens.hooks.forward_pass import ForwardPass
from revlens.hooks.names import point_name
from revlens.hooks.subspaces import Basis, Directions, by_layer
from revlens.hooks.tokens import TokenFilter, Tokens

#: Coordinates to move to, or by: one number for every layer; or a number (or one per basis vector) by layer.
Amounts = float | Mapping[int, float | Float[Tensor, "*k"]]


@contextmanager
def ablate(
    model: nn.Module,
    directions: Directions,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Directional ablation (Arditi et al., arXiv 2406.11717): h <- h - <h, v> v, or h - h V^T V."""
    bridge = the_bridge(model)
    edits = _moved(bridge, directions, layers, 0.0)
    with editing(bridge, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def add(
    model: nn.Module,
    directions: Directions,
    alpha: Amounts,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Activation addition (Turner et al., arXiv 2308.10248): h <- h + alpha v, alpha in activation units."""
    bridge = the_bridge(model)
    edits = _moved(bridge, directions, layers, alpha, relative=True)
    with editing(bridge, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def clamp(
    model: nn.Module,
    directions: Directions,
    value: Amounts,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Clamp the projection, e.g. to the aligned model's mean: h <- h + (value - <h, v>) v."""
    bridge = the_bridge(model)
    edits = _moved(bridge, directions, layers, value)
    with editing(bridge, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def mean_ablate(
    model: nn.Module,
    means: Mapping[int, Float[Tensor, " d_model"]],
    *,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Mean ablation: h <- the given mean activation of each layer."""

    bridge = the_bridge(model)

    def replacing(mean: Tensor) -> Edit:
        return lambda h: mean.to(h).expand_as(h)

    edits = {
        layer: replacing(torch.as_tensor(finite(mean, f"the mean of layer {layer}")))
        for layer, mean in means.items()
    }
    with editing(bridge, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def patch(
    model: nn.Module,
    cache: Mapping[str, Tensor] | ActivationCache,
    names: Sequence[str],
    *,
    tokens: Tokens = "prompt",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Activation patching: at the named hook points, take the activations from a cache of the same tokens.

    Args:
        cache: activations ``[batch pos ...]`` by hook point: an `ActivationCache`, or what `record` yields.
        names: hook points; any with batch and pos as first axes, heads (``blocks.0.attn.hook_z``) included.

    Raises:
        SiteError: also if a name is not in the cache, or a cached activation has another shape than it
            replaces.
    """

    bridge = the_bridge(model)

    def replacing(name: str) -> EditAt:
        cached = cache[name]

        def edit(h: Tensor, latest: ForwardPass) -> Tensor:
            if latest.n_past is None:
                raise SiteError(
                    "The model's recurrent state does not say how many tokens it has read, so it is unknown "
                    "which cached tokens come next; open the context before the prompt runs."
                )
            end = latest.n_past + latest.n_tokens
            there = cached[:, end - h.shape[1] : end]
            if there.shape != h.shape:
                raise SiteError(
                    f"The cached {name} has shape {tuple(cached.shape)}, but {tuple(h.shape)} after "
                    f"{latest.n_past} tokens is to be replaced; cache the same prompts with the same padding."
                )
            return there.to(h)

        return edit

    missing = [name for name in names if name not in cache]
    if missing:
        raise SiteError(f"No {missing[0]!r} in the cache; record it first.")
    with editing(bridge, {name: replacing(name) for name in names}, TokenFilter(tokens, rows, prompt_length)):
        yield


def _moved(
    model: TransformerBridge,
    directions: Directions,
    layers: Sequence[int] | None,
    amounts: Amounts,
    *,
    relative: bool = False,
) -> dict[int, Edit]:
    bases: dict[int, Basis] = by_layer(directions, model.cfg.n_layers, model.cfg.d_model, layers)
    if isinstance(amounts, Mapping) and set(bases) - set(amounts):
        raise SiteError(
            f"There is no amount for layer {min(set(bases) - set(amounts))}; "
            f"there are amounts for {sorted(amounts)}."
        )
    by = amounts if isinstance(amounts, Mapping) else dict.fromkeys(bases, amounts)
    for layer, basis in bases.items():
        shape = tuple(torch.as_tensor(by[layer]).shape)
        if shape not in ((), (len(basis),)):
            raise SiteError(
                f"The amount at layer {layer} has shape {shape}; a number was expected, or one for each of "
                f"its {len(basis)} directions. Amounts that differ by layer are given as {{layer: amount}}."
            )
    return {
        layer: moved_to(basis, finite(by[layer], f"the amount at layer {layer}"), relative=relative)
        for layer, basis in bases.items()
    }


def _at_component(edits: Mapping[int, Edit], component: str) -> dict[str, EditAt]:
    def ignoring_pass(edit: Edit) -> EditAt:
        return lambda h, latest: edit(h)

    return {point_name(layer, component): ignoring_pass(edit) for layer, edit in edits.items()}
