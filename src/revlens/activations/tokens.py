"""Activations at every token of prompts, for stores of all positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.sites import Sites
from revlens.errors import NonFiniteError, ProbeError
from revlens.hooks import record
from revlens.prompts import encode_prompts, pad_id_of, pad_left


@torch.no_grad()
def read_tokens(
    model: TransformerBridge, prompts: Sequence[str], sites: Sites | None = None, *, batch_size: int = 64
) -> list[Float[Tensor, "pos layer d_model"]]:
    """Activations at every token of each user message in the model's chat format, as float32 on the CPU.

    Args:
        model: any bridge whose tokenizer has a chat template.
        prompts: user messages.
        sites: component and layers; resid_post of every layer if None.
        batch_size: prompts per forward pass.

    Raises:
        ProbeError: if there is no prompt.
        NonFiniteError: if an activation is NaN or infinite, naming the prompt.
    """
    if not prompts:
        raise ProbeError("No prompts to read activations of.")
    sites = sites or Sites()
    names = sites.hook_names(model.cfg.n_layers)
    device = next(model.parameters()).device
    rows, pad_id = encode_prompts(model.tokenizer, prompts), pad_id_of(model.tokenizer)
    read = []
    for first in range(0, len(rows), batch_size):
        batch = pad_left(rows[first : first + batch_size], pad_id)
        with record(model, names) as kept:
            model(batch.tokens.to(device), attention_mask=batch.mask.to(device))
        values = torch.stack([kept[name].float().cpu() for name in names], dim=2)
        read += [row[-length:] for row, length in zip(values, batch.mask.sum(1).tolist(), strict=True)]
    for prompt, values in zip(prompts, read, strict=True):
        if not values.isfinite().all():
            raise NonFiniteError(
                f"Activation of {sites.component} is not finite on prompt {prompt!r}; check the checkpoint, or load it in a wider dtype."
            )
    return read
