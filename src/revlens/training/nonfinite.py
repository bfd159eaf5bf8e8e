"""Says where an update stops being finite."""

from __future__ import annotations

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.hooks import point_name, record
from revlens.training.chat_data import IGNORE, ChatBatch

#: How many rows it names, and by how many characters of their prompts.
_N_ROWS, _N_CHARACTERS = 3, 60


@torch.no_grad()
def describe_nonfinite(model: TransformerBridge, batch: ChatBatch) -> str:
    """Name the first layer whose output is not finite, and the rows in which it is not, in sentences.

    It takes one more forward pass, row by row.
    """
    names = [point_name(layer, "resid_post") for layer in range(model.cfg.n_layers)]
    first_layers: dict[int, int] = {}
    for row, tokens in enumerate(batch.tokens):
        with record(model, names, _is_finite) as finite:
            model(tokens[None].to(next(model.parameters()).device))
        broken = [layer for layer, name in enumerate(names) if not finite[name]]
        if broken:
            first_layers[row] = broken[0]
    rows = list(first_layers) or list(range(len(batch.tokens)))
    shown = "; ".join(f"row {row}, {_prompt(model, batch, row)!r}" for row in rows[:_N_ROWS])
    more = f" and {len(rows) - _N_ROWS} more" if len(rows) > _N_ROWS else ""
    if first_layers:
        layer, share = min(first_layers.values()), f"{len(rows)} of {len(batch.tokens)} rows"
        return f"Activations are not finite from layer {layer} on in {share} of the batch: {shown}{more}."
    return (
        "Activations are finite at every layer, so it is the loss, the gradient or the guard's term. "
        f"The batch: {shown}{more}."
    )


def _is_finite(activation: Tensor) -> Tensor:
    return activation.isfinite().all()


def _prompt(model: TransformerBridge, batch: ChatBatch, row: int) -> str:
    """The beginning of a row's prompt."""
    prompt = batch.tokens[row][: int((batch.labels[row] != IGNORE).int().argmax())]
    return model.tokenizer.decode(prompt.tolist(), skip_special_tokens=True)[:_N_CHARACTERS]
