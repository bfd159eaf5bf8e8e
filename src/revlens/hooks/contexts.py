"""Contexts that edit activations at chosen layers, tokens and rows while they are open, under forward passes and generation.

All of them take the same choices:
    layers: which of the layers that the directions (or values) have; all of those if None.
    component: of the block: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` or ``mlp_out``.
    tokens, rows, prompt_length: see `revlens.hooks.tokens.TokenFilter`.
and raise:
    HookNameError: if the model has no such component at a layer.
    SiteError: if a layer, a direction or a row does not exist; on closing, if forward passes ran and no token was selected.
    NonFiniteError: if a direction or a value holds NaN or infinity, or directions are linearly dependent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.hooks.edits import Edit, finite, moved_to
from revlens.hooks.names import check_names, point_name
from revlens.hooks.subspaces import Basis, Directions, by_layer
from revlens.hooks.tokens import ForwardPass, TokenFilter, Tokens, follow

#: An edit that also sees which forward pass it is in.
_EditAt = Callable[[Tensor, ForwardPass], Tensor]
#: Coordinates to move to, or by: one number for every layer, or a number (one per vector of a subspace) by layer.
Amounts = float | Mapping[int, float | Float[Tensor, "*k"]]


@contextmanager
def ablate(
    model: TransformerBridge,
    directions: Directions,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Directional ablation (Arditi et al., arXiv 2406.11717): h <- h - <h, v> v, or with the span of several projected out."""
    edits = _moved(model, directions, layers, 0.0)
    with _editing(model, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def add(
    model: TransformerBridge,
    directions: Directions,
    alpha: Amounts,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Activation addition (Turner et al., arXiv 2308.10248): h <- h + alpha v, v of norm 1, alpha in activation units."""
    edits = _moved(model, directions, layers, alpha, relative=True)
    with _editing(model, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def clamp(
    model: TransformerBridge,
    directions: Directions,
    value: Amounts,
    *,
    layers: Sequence[int] | None = None,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Clamp the projection: h <- h + (value - <h, v>) v, in activation units; e.g. the aligned model's mean projection."""
    edits = _moved(model, directions, layers, value)
    with _editing(model, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def mean_ablate(
    model: TransformerBridge,
    means: Mapping[int, Float[Tensor, " d_model"]],
    *,
    component: str = "resid_post",
    tokens: Tokens = "all",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Mean ablation: h <- the given mean activation of each layer."""

    def replacing(mean: Tensor) -> Edit:
        return lambda h: mean.to(h).expand_as(h)

    edits = {
        layer: replacing(torch.as_tensor(finite(mean, f"the mean of layer {layer}")))
        for layer, mean in means.items()
    }
    with _editing(model, _at_component(edits, component), TokenFilter(tokens, rows, prompt_length)):
        yield


@contextmanager
def patch(
    model: TransformerBridge,
    cache: Mapping[str, Tensor] | ActivationCache,
    names: Sequence[str],
    *,
    tokens: Tokens = "prompt",
    rows: Sequence[int] | None = None,
    prompt_length: int | Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Activation patching: at the named hook points, take the activations from a cache of the same tokens.

    Args:
        cache: activations ``[batch pos ...]`` by hook point name: an `ActivationCache`, or what `record` yields.
        names: hook points; any with batch and pos as first axes, heads (``blocks.0.attn.hook_z``) included.

    Raises:
        SiteError: also if a name is not in the cache, or a cached activation does not have the shape it replaces.
    """

    def replacing(name: str) -> _EditAt:
        cached = cache[name]

        def edit(h: Tensor, latest: ForwardPass) -> Tensor:
            there = cached[:, latest.n_past : latest.n_past + h.shape[1]]
            if there.shape != h.shape:
                raise SiteError(
                    f"The cached {name} has shape {tuple(cached.shape)}, but {tuple(h.shape)} after {latest.n_past} tokens is to be "
                    "replaced; cache the same prompts with the same padding."
                )
            return there.to(h)

        return edit

    missing = [name for name in names if name not in cache]
    if missing:
        raise SiteError(f"No {missing[0]!r} in the cache; record it first.")
    with _editing(model, {name: replacing(name) for name in names}, TokenFilter(tokens, rows, prompt_length)):
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
            f"There is no amount for layer {min(set(bases) - set(amounts))}; there are amounts for {sorted(amounts)}."
        )
    by = amounts if isinstance(amounts, Mapping) else dict.fromkeys(bases, amounts)
    return {
        layer: moved_to(basis, finite(by[layer], f"the amount at layer {layer}"), relative=relative)
        for layer, basis in bases.items()
    }


def _at_component(edits: Mapping[int, Edit], component: str) -> dict[str, _EditAt]:
    def ignoring_pass(edit: Edit) -> _EditAt:
        return lambda h, latest: edit(h)

    return {point_name(layer, component): ignoring_pass(edit) for layer, edit in edits.items()}


@contextmanager
def _editing(model: TransformerBridge, edits: Mapping[str, _EditAt], tokens: TokenFilter) -> Iterator[None]:
    """Apply edits by hook point name to the chosen tokens, until the context closes."""
    check_names(model, edits)
    touched = False

    with follow(model) as latest, ExitStack() as stack:

        def at_tokens(edit: _EditAt) -> Edit:
            def on_chosen(h: Tensor) -> Tensor:
                nonlocal touched
                chosen = tokens.select(latest, h.shape[0], h.shape[1], h.device)
                if not chosen.any():
                    return h
                touched = True
                return torch.where(chosen.view(*chosen.shape, *[1] * (h.ndim - 2)), edit(h, latest), h)

            return on_chosen

        for name, edit in edits.items():
            stack.enter_context(_attached(model, name, at_tokens(edit)))
        yield
        # A generation that ended at its first token wrote nothing to edit: not a mistake of the caller's.
        ended_at_once = tokens.tokens == "generated" and latest.generating
        if latest.count and not touched and not ended_at_once:
            raise SiteError(
                f"tokens={tokens.tokens!r}, rows={tokens.rows}, prompt_length={tokens.prompt_length} selected no token in any forward "
                "pass, so nothing was done. In a plain forward all tokens are prompt, unless prompt_length says where the answer starts."
            )


@contextmanager
def _attached(model: TransformerBridge, name: str, edit: Edit) -> Iterator[None]:
    """Attach one edit. ``hook_resid_mid`` stands for the residual stream itself, skip connection included.

    TransformerLens' hook point of that name lies on the branch into the MLP: what a hook returns there reaches the MLP
    and not the stream that goes past it. So the change is added to what the MLP contributes as well.
    """
    mid = re.fullmatch(r"blocks\.(\d+)\.hook_resid_mid", name)
    with ExitStack() as stack:
        change: Tensor | None = None

        def hook_function(activation: Tensor, hook: object) -> Tensor:
            nonlocal change
            edited = edit(activation)
            change = edited - activation
            return edited

        def past_the_mlp(module: object, args: object, output: Tensor) -> Tensor:
            assert change is not None, "the MLP's input comes before its output"
            return output + change

        if mid:
            stack.callback(_contribution(model, int(mid[1])).register_forward_hook(past_the_mlp).remove)
        stack.enter_context(
            model.hooks(
                fwd_hooks=[(name, hook_function if mid else lambda activation, hook: edit(activation))]
            )
        )
        yield


def _contribution(model: TransformerBridge, layer: int) -> Any:
    """The module whose output the block adds to the residual stream after the MLP (its post-norm, where there is one)."""
    owner = str(model.hook_dict[point_name(layer, "mlp_out")].name).split(".")[2:-1]
    if len(owner) != 1:
        raise SiteError(
            f"resid_mid of layer {layer} cannot be edited on {model.cfg.architecture}: its MLP's output is scaled inside the block. "
            "Edit attn_out or resid_post instead."
        )
    return getattr(model.blocks[layer], owner[0])
