"""Attach edits to hook points, at chosen tokens, for as long as a context is open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import SiteError
from revlens.hooks.edits import Edit
from revlens.hooks.forward_pass import ForwardPass, follow
from revlens.hooks.names import check_names, point_name
from revlens.hooks.tokens import TokenFilter

#: An edit that also sees which forward pass it is in.
EditAt = Callable[[Tensor, ForwardPass], Tensor]


@contextmanager
def editing(model: TransformerBridge, edits: Mapping[str, EditAt], tokens: TokenFilter) -> Iterator[None]:
    """Apply edits by hook point name to the chosen tokens, until the context closes."""
    check_names(model, edits)
    touched = False

    with follow(model) as latest, ExitStack() as stack:

        def at_tokens(edit: EditAt) -> Edit:
            def on_chosen(h: Tensor) -> Tensor:
                nonlocal touched
                chosen = tokens.select(latest, h.shape[0], h.shape[1], h.device)
                if not chosen.any():
                    return h
                touched = True
                return torch.where(chosen.view(*chosen.shape, *[1] * (h.ndim - 2)), edit(h, latest), h)

            return on_chosen

        for name, edit in edits.items():
            stack.enter_context(_editing_point(model, name, at_tokens(edit)))
        yield
        # A generation that ends at its first token writes nothing to edit: the caller made no mistake.
        ended_at_once = tokens.tokens == "generated" and latest.generating
        if latest.count and not touched and not ended_at_once:
            raise SiteError(
                f"tokens={tokens.tokens!r}, rows={tokens.rows}, prompt_length={tokens.prompt_length} "
                "selected no token in any forward pass, so nothing was done. In a plain forward all tokens "
                "are prompt, unless prompt_length says where the answer starts."
            )


@contextmanager
def _editing_point(model: TransformerBridge, name: str, edit: Edit) -> Iterator[None]:
    """Attach one edit. ``hook_resid_mid`` stands for the residual stream itself, skip connection included.

    TransformerLens' hook point of that name lies on the branch into the MLP: what a hook returns there
    reaches the MLP and not the stream that goes past it. So the change is added to what the MLP contributes
    as well.
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
            stack.callback(_mlp_contribution(model, int(mid[1])).register_forward_hook(past_the_mlp).remove)
        stack.enter_context(
            model.hooks(
                fwd_hooks=[(name, hook_function if mid else lambda activation, hook: edit(activation))]
            )
        )
        yield


def _mlp_contribution(model: TransformerBridge, layer: int) -> Any:
    """The module whose output the block adds to the stream after the MLP: its post-norm, if it has one."""
    owner = str(model.hook_dict[point_name(layer, "mlp_out")].name).split(".")[2:-1]
    if len(owner) != 1:
        raise SiteError(
            f"resid_mid of layer {layer} cannot be edited on {model.cfg.architecture}: "
            "its MLP's output is scaled inside the block. Edit attn_out or resid_post instead."
        )
    return getattr(model.blocks[layer], owner[0])
