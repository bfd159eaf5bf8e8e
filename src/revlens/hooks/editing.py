"""Attach edits to hook points, at chosen tokens, for as long as a context is open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.hooks.forward_pass import Followed, ForwardPass, follow, goes_backward
from revlens.hooks.names import check_names, hooked, point_name
from revlens.hooks.tokens import TokenFilter

#: An edit that also sees which forward pass it is in.
EditAt = Callable[[Tensor, ForwardPass], Tensor]


@contextmanager
def editing(model: TransformerBridge, edits: Mapping[str, EditAt], tokens: TokenFilter) -> Iterator[None]:
    """Apply edits by hook point name to the chosen tokens, until the context closes.

    Raises:
        HookNameError, SiteError, ConfigError: see `revlens.hooks.contexts`.
    """
    check_names(model, edits)
    for name in edits:
        _check_axes(model, name)
    touched = False

    with follow(model, edits) as followed, ExitStack() as stack:

        def at_tokens(name: str, edit: EditAt) -> EditAt:
            def on_chosen(h: Tensor, latest: ForwardPass) -> Tensor:
                nonlocal touched
                latest.fired.add(name)
                chosen = tokens.select(latest, h.shape[0], latest.columns_of(name, h), h.device)
                if not chosen.any():
                    return h
                touched = True
                edited = torch.where(chosen.view(*chosen.shape, *[1] * (h.ndim - 2)), edit(h, latest), h)
                _watch_backward(model, name, edited, latest, followed)
                return edited

            return on_chosen

        for name, edit in edits.items():
            stack.enter_context(_editing_point(model, name, at_tokens(name, edit), followed))
        yield
        # A generation that ends at its first token writes nothing to edit: the caller made no mistake.
        ended_at_once = tokens.tokens == "generated" and followed.generating
        if followed.count and not touched and not ended_at_once:
            raise SiteError(
                f"tokens={tokens.tokens!r}, rows={tokens.rows}, prompt_length={tokens.prompt_length} "
                "selected no token in any forward pass, so nothing was done. In a plain forward all tokens "
                "are prompt, unless prompt_length says where the answer starts."
            )


def _check_axes(model: TransformerBridge, name: str) -> None:
    point = model.hook_dict[name]
    if name.endswith(("hook_pattern", "hook_attn_scores")) or getattr(point, "pos_dim", None) not in (
        None,
        1,
    ):
        raise SiteError(f"{name} does not have batch and pos as first axes; use model.hooks.")


def _watch_backward(
    model: TransformerBridge, name: str, edited: Tensor, latest: ForwardPass, followed: Followed
) -> None:
    """Refuse gradients that gradient checkpointing would take without the edit.

    It runs what is inside a block again in the backward pass, under the hooks that are there by then.
    """
    checkpointing = getattr(model.original_model, "is_activation_checkpointing", False)
    at_the_edge = model.hook_dict[name].name in (
        f"{name.rsplit('.', 1)[0]}.hook_in",
        f"{name.rsplit('.', 1)[0]}.hook_out",
    )
    if not checkpointing or not latest.with_gradient or at_the_edge or goes_backward():
        return

    def check(gradient: Tensor) -> None:
        if not followed.open:
            raise SiteError(
                f"Gradient checkpointing runs {name} again in the backward pass, and the context that edits "
                "it is closed: go backward inside it."
            )

    if edited.requires_grad:
        edited.register_hook(check)
    elif not torch.is_grad_enabled():
        raise SiteError(
            f"Reentrant gradient checkpointing runs {name} again in the backward pass, where no hook can "
            "tell whether its edit still stands; enable it with use_reentrant=False."
        )


@contextmanager
def _editing_point(model: TransformerBridge, name: str, edit: EditAt, followed: Followed) -> Iterator[None]:
    """Attach one edit. ``hook_resid_mid`` stands for the residual stream itself, skip connection included.

    TransformerLens' hook point of that name lies on the branch into the MLP: what a hook returns there
    reaches the MLP and not the stream that goes past it. So the change is added to what the MLP contributes
    as well.
    """
    mid = re.fullmatch(r"blocks\.(\d+)\.hook_resid_mid", name)
    key = f"{id(edit)}"  # contexts may nest, each with an edit of its own

    def hook_function(activation: Tensor, hook: object) -> Tensor:
        latest = followed.latest
        edited = edit(activation, latest)
        if mid:
            latest.changes[key] = edited - activation
        return edited

    def past_the_mlp(module: object, args: object, output: Tensor) -> Tensor:
        change = followed.latest.changes.get(key)
        if change is None:
            raise SiteError(
                f"The MLP's output comes before {name}, so that cannot be edited; edit resid_post."
            )
        return output + change

    with ExitStack() as stack:
        if mid:
            stack.callback(_mlp_contribution(model, int(mid[1])).register_forward_hook(past_the_mlp).remove)
        stack.enter_context(hooked(model, [(name, hook_function)]))
        yield


def _mlp_contribution(model: TransformerBridge, layer: int) -> nn.Module:
    """The module whose output the block adds to the stream after the MLP: its post-norm, if it has one."""
    block, name = model.blocks[layer], point_name(layer, "mlp_out")
    point = model.hook_dict.get(name)
    owners = [child for child in block.children() if any(module is point for module in child.children())]
    if len(owners) != 1:
        raise SiteError(
            f"resid_mid of layer {layer} cannot be edited on {model.cfg.architecture}: its block does not "
            f"add the output of one module to the stream after it ({name}); edit attn_out or resid_post."
        )
    return owners[0]
