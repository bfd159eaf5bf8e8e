"""Read activations at every token of prompts, for stores of all positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.activations.sites import Sites
from revlens.context import prompt_rows
from revlens.errors import NonFiniteError, ProbeError
from revlens.forward import Passes
from revlens.hooks import the_bridge


@torch.no_grad()
def read_tokens(
    model: nn.Module, prompts: Sequence[str], sites: Sites | None = None, *, batch_size: int = 64
) -> list[Float[Tensor, "pos layer d_model"]]:
    """Activations at every token of each user message in the model's chat format, as float32 on the CPU.

    Tokens that all prompts begin with run once, see `read_prompts`.

    Args:
        model: any bridge whose tokenizer has a chat template.
        prompts: user messages.
        sites: component and layers; resid_post of every layer if None.
        batch_size: prompts per forward pass.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: see `revlens.context.prompt_rows`.
        NonFiniteError: if an activation is NaN or infinite, naming the prompt.
    """
    model = the_bridge(model)
    if not prompts:
        raise ProbeError("No prompts to read activations of.")
    sites = sites or Sites()
    names = sites.hook_names(model.cfg.n_layers)
    passes = Passes.over(model, prompt_rows(model, prompts), names, batch_size, keep_prefix=True)
    prefix = (
        []
        if passes.prefix is None
        else [torch.stack([passes.prefix.kept[name].float().cpu() for name in names], dim=1)]
    )
    kept: dict[str, list[Tensor]] = {}

    def take(name: str, activation: Tensor, mask: Tensor) -> None:
        kept[name] = [
            row[is_token].float().cpu() for row, is_token in zip(activation, mask.bool(), strict=True)
        ]

    read = [torch.empty(0)] * len(prompts)
    for batch in passes.run(take):
        for row, i in enumerate(batch):
            read[i] = torch.cat([*prefix, torch.stack([kept[name][row] for name in names], dim=1)])
    for prompt, values in zip(prompts, read, strict=True):
        if not values.isfinite().all():
            raise NonFiniteError(
                f"Activation of {sites.component} is not finite on prompt {prompt!r}; "
                "check the checkpoint, or load it in a wider dtype."
            )
    return read
