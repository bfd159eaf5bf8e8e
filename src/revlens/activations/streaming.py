"""Moments of activations, updated pass by pass: memory does not grow with the number of prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.moments import Moments, RunningMoments
from revlens.activations.sites import Sites
from revlens.context import prompt_rows
from revlens.errors import NonFiniteError, ProbeError, SiteError
from revlens.forward import Passes, PositionsOrAll, is_sharded
from revlens.hooks import Directions, by_layer, coordinates, point_name, the_bridge


@torch.no_grad()
def read_moments(
    model: nn.Module,
    prompts: Sequence[str],
    sites: Sites | None = None,
    positions: PositionsOrAll = "last",
    *,
    covariance: bool = False,
    along: Directions | None = None,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Moments:
    """Moments of the activations of user messages in the model's chat format; no activation is kept.

    Memory is one pass and, at each layer, d_model float64 numbers (with ``covariance`` their square).

    Args:
        model: any bridge whose tokenizer has a chat template. If `fully_shard` was applied to its blocks and
            its ``original_model``, all processes call this together.
        prompts: user messages; all of them in every process.
        sites: component and layers; resid_post of every layer if None.
        positions: position policy, or ``all`` for a vector per prompt token.
        covariance: keep the covariance of all pairs of coordinates, not variances alone.
        along: take coordinates along these directions, orthonormal by layer and equally many at each, in
            place of activations.
        batch_size: prompts per forward pass.
        accelerator: with several processes, each reads its share of the prompts and gets the moments of all.
        template_kwargs: arguments of the chat template, see `revlens.chat_templates.render`; they override
            those of the model's history.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: if the batch size is below 1, or a prompt does not fit the model's context; also see
            `revlens.prompts.encode_prompts`.
        SiteError: if layers have differing numbers of directions, and see `revlens.hooks.subspaces.by_layer`.
        NonFiniteError: if an activation is NaN or infinite, naming the layer.
    """
    model = the_bridge(model)
    if not prompts:
        raise ProbeError("No prompts to read activations of.")
    sites = sites or Sites()
    layers, device = sites.resolve(model.cfg.n_layers), _wide_device(model)
    bases = None if along is None else by_layer(along, model.cfg.n_layers, model.cfg.d_model, layers)
    widths = {model.cfg.d_model} if bases is None else {len(basis) for basis in bases.values()}
    if len(widths) > 1:
        raise SiteError(
            f"Layers have differing numbers of directions, {sorted(widths)}; give equally many at each."
        )
    running = {
        layer: RunningMoments.empty(max(widths), covariance=covariance, device=device) for layer in layers
    }
    layer_of = {point_name(layer, sites.component): layer for layer in layers}

    def add(name: str, values: Tensor, times: int = 1) -> None:
        layer = layer_of[name]
        running[layer].update(values if bases is None else coordinates(values, bases[layer]), times)

    rows = encoded = prompt_rows(model, prompts, template_kwargs=template_kwargs)
    if accelerator is not None:
        rows = encoded[accelerator.process_index :: accelerator.num_processes]
    if rows:
        _add_prompts(model, rows, list(layer_of), positions, batch_size, add)
    if accelerator is not None:
        most = len(encoded[:: accelerator.num_processes])
        if is_sharded(model) and math.ceil(len(rows) / batch_size) < math.ceil(most / batch_size):
            # The other processes make one more pass, in which they need this one's weights.
            for _ in Passes.over(model, encoded[:1], list(layer_of), 1, keep_prefix=False).pooled("last"):
                pass
        for moments in running.values():
            moments.reduce(accelerator)
    _check_finite(running, sites)
    return Moments.of(running)


def _add_prompts(
    model: TransformerBridge,
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
    positions: PositionsOrAll,
    batch_size: int,
    add: Callable[..., None],
) -> None:
    """Run prompts; call ``add`` with each hook point and its vectors, one per prompt or per prompt token."""
    passes = Passes.over(model, rows, names, batch_size, keep_prefix=positions != "last")
    if positions != "all":
        for _, vectors in passes.pooled(positions):
            for name, values in vectors.items():
                add(name, values)
        return

    # Inside the pass, so that the tokens of only one layer are in memory at a time.
    def take(name: str, activation: Tensor, mask: Tensor) -> None:
        add(name, activation[mask.to(activation.device).bool()])

    for _ in passes.run(take):
        pass
    if passes.prefix is not None:
        for name, activation in passes.prefix.kept.items():
            add(name, activation, times=len(rows))


def _wide_device(model: TransformerBridge) -> torch.device:
    """Where the model is, or the CPU if there is no float64 there (Apple's GPUs)."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "mps" else device


def _check_finite(running: dict[int, RunningMoments], sites: Sites) -> None:
    for layer, moments in running.items():
        if not moments.mean.isfinite().all() or not moments.scatter.isfinite().all():
            raise NonFiniteError(
                f"Activation of {sites.component} at layer {layer} is not finite; "
                "check the checkpoint, or load it in a wider dtype. read_prompts names the prompt."
            )
