"""Read activations of prompts under one model, one vector per prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.sites import Sites
from revlens.context import prompt_rows
from revlens.errors import NonFiniteError, ProbeError
from revlens.forward import Passes, Positions, run_pooled
from revlens.history import TrainingHistory
from revlens.hooks import the_bridge
from revlens.prompts import Batch


def read_batch(
    model: TransformerBridge, batch: Batch, sites: Sites, positions: Positions = "last"
) -> Float[Tensor, "batch layer d_model"]:
    """Activations from one pass over a left-padded batch, up to the last site; gradients flow by default."""
    device = next(model.parameters()).device
    tokens, mask = batch.tokens.to(device), batch.mask.to(device)
    names = sites.hook_names(model.cfg.n_layers)
    vectors = run_pooled(model, tokens, mask, names, positions, attention_mask=mask)
    return torch.stack([vectors[name].to(device) for name in names], dim=1)


@torch.no_grad()
def read_prompts(
    model: nn.Module,
    prompts: Sequence[str],
    sites: Sites | None = None,
    positions: Positions = "last",
    *,
    batch_size: int = 64,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Float[Tensor, "prompt layer d_model"]:
    """Activations of user messages in the model's chat format, as float32 on the CPU.

    Prompts of similar length share a pass, a pass stops after the last layer that is read, and tokens that
    all prompts begin with (a system message, the chat header) run once where the model's cache allows it.
    This changes numbers by rounding only.

    Args:
        model: any bridge whose tokenizer has a chat template.
        prompts: user messages.
        sites: component and layers; resid_post of every layer if None.
        positions: position policy.
        batch_size: prompts per forward pass.
        template_kwargs: arguments of the chat template, see `revlens.chat_templates.render`; they override
            those of the model's history.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: if the batch size is below 1, or a prompt does not fit the model's context; also see
            `revlens.prompts.encode_prompts`.
        NonFiniteError: if an activation is NaN or infinite, naming the layer and the prompt.
    """
    model = the_bridge(model)
    if not prompts:
        raise ProbeError("No prompts to read activations of.")
    sites = sites or Sites()
    names = sites.hook_names(model.cfg.n_layers)
    rows = prompt_rows(model, prompts, template_kwargs=template_kwargs)
    passes = Passes.over(model, rows, names, batch_size, keep_prefix=positions == "mean")
    values = torch.empty(len(prompts), len(names), model.cfg.d_model)
    for read, vectors in passes.pooled(positions):
        values[read] = torch.stack([vectors[name].float().cpu() for name in names], dim=1)
    if not values.isfinite().all():
        prompt, layer, _ = (~values.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(
            f"Activation of {sites.component} at layer {sites.resolve(model.cfg.n_layers)[layer]} is not "
            f"finite on prompt {prompts[prompt]!r}; check the checkpoint, or load it in a wider dtype."
        )
    return values


class Endpoints(NamedTuple):
    """Activations of the same prompts at both ends of v_rev, in the order of `ReversionDirection.fit`."""

    reference: Float[Tensor, "prompt layer d_model"]
    aligned: Float[Tensor, "prompt layer d_model"]


def read_endpoints(
    history: TrainingHistory,
    prompts: Sequence[str],
    sites: Sites | None = None,
    positions: Positions = "last",
) -> Endpoints:
    """Activations under the reference and the aligned checkpoint.

    One model is in memory at a time, and nothing is written; see `capture` for whole histories.

    Raises:
        HistoryError: if a checkpoint cannot be loaded.
        ProbeError, ConfigError, SiteError, NonFiniteError: see `read_prompts` and `Sites`.
    """
    return Endpoints(
        *(read_prompts(c.load(), prompts, sites, positions) for c in (history.reference, history.aligned))
    )
