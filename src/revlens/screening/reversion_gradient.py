"""How the reversion fraction depends on the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_batch
from revlens.context import prompt_rows
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.forward import shortest_first
from revlens.prompts import Batch, pad_id_of, pad_left
from revlens.training import trained_parameters


def probe_batches(model: TransformerBridge, prompts: Sequence[str], batch_size: int) -> list[Batch]:
    """User messages in the chat format, padded on the left, in batches of similar length.

    Raises:
        ConfigError: see `revlens.context.prompt_rows`.
    """
    rows = prompt_rows(model, prompts)
    pad_id = pad_id_of(model.tokenizer)
    return [
        pad_left([rows[i] for i in members], pad_id)
        for members in shortest_first([len(row) for row in rows], batch_size)
    ]


def reversion_gradient(
    model: TransformerBridge, v_rev: ReversionDirection, prompts: Sequence[str], *, batch_size: int = 64
) -> dict[str, Tensor]:
    """Gradient of the reversion fraction in the trained weights, at the model's present ones.

    The fraction is `revlens.Drift.fraction` of motion that starts here, mean over v_rev's layers: how far the
    mean activation at the last prompt token moves along v_rev, over the gap. So the inner product of this
    gradient with an update is the fraction that the update causes, to first order.

    Args:
        model: in evaluation mode; what is trained requires gradients.
        v_rev: from other prompts.
        prompts: user messages.
        batch_size: prompts per pass.

    Returns:
        By name of the trained parameter; zero where the prompts do not depend on it.

    Raises:
        ConfigError: if nothing of the model is trained, or v_rev is of another width.
        SiteError: if v_rev has a layer that the model lacks.
    """
    trained = trained_parameters(model)
    if not trained:
        raise ConfigError(
            "No parameter of the model requires gradients, so no update can move it; unfreeze it, or add an "
            "adapter."
        )
    weights = _weights(model, v_rev) / len(prompts)
    gradient = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    for batch in probe_batches(model, prompts, batch_size):
        with torch.enable_grad():
            streams = read_batch(model, batch, Sites(layers=v_rev.layers))
            part = (streams.to(weights.dtype) * weights).sum()
            add_gradient(gradient, part, trained)
    return gradient


def add_gradient(
    gradient: Mapping[str, Tensor], value: Float[Tensor, ""], trained: Mapping[str, nn.Parameter]
) -> None:
    """Add the gradient of a value to a sum, in place; nothing where the value does not depend on a weight."""
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    for name, added in zip(trained, found, strict=True):
        if added is not None:
            gradient[name].add_(added)


def _weights(model: TransformerBridge, v_rev: ReversionDirection) -> Float[Tensor, "layer d_model"]:
    """What the streams are multiplied with: v_rev over the gap and the number of layers."""
    if v_rev.unit.shape[1] != model.cfg.d_model:
        raise ConfigError(
            f"v_rev has width {v_rev.unit.shape[1]}, the model {model.cfg.d_model}; locate it on the history "
            "of this model."
        )
    parameter = next(model.parameters())
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    weights = v_rev.unit / v_rev.gap[:, None] / len(v_rev.layers)
    return weights.to(parameter.device, dtype)
