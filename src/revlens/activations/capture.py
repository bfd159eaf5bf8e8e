"""Reading activations: of prompts under one model, and of every checkpoint of a history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.positions import Positions, pool
from revlens.activations.sites import Sites
from revlens.activations.store import Activations, checkpoint_file, claim, write_checkpoint
from revlens.errors import NonFiniteError, ProbeError
from revlens.history import TrainingHistory
from revlens.hooks import record
from revlens.prompts import Batch, Probes, encode_prompts, pad_id_of, pad_left


def read_batch(model: TransformerBridge, batch: Batch, sites: Sites, positions: Positions = "last") -> Float[Tensor, "batch layer d_model"]:
    """One forward pass over a left-padded batch; gradients flow unless they are switched off outside."""
    device = next(model.parameters()).device
    tokens, mask = batch.tokens.to(device), batch.mask.to(device)
    names = sites.hook_names(model.cfg.n_layers)
    with record(model, names, select=lambda activation: pool(activation, mask, positions)) as kept:
        model(tokens, attention_mask=mask)
    return torch.stack([kept[name] for name in names], dim=1)


@torch.no_grad()
def read_prompts(
    model: TransformerBridge,
    prompts: Sequence[str],
    sites: Sites | None = None,
    positions: Positions = "last",
    *,
    batch_size: int = 64,
) -> Float[Tensor, "prompt layer d_model"]:
    """Activations of user messages in the model's chat format, as float32 on the CPU.

    Args:
        model: any bridge whose tokenizer has a chat template.
        prompts: user messages.
        sites: component and layers; resid_post of every layer if None.
        positions: position policy.
        batch_size: prompts per forward pass.

    Raises:
        ProbeError: if there is no prompt.
        NonFiniteError: if an activation is NaN or infinite, naming the layer and the prompt.
    """
    if not prompts:
        raise ProbeError("No prompts to read activations of.")
    sites = sites or Sites()
    rows = encode_prompts(model.tokenizer, prompts)
    pad_id = pad_id_of(model.tokenizer)
    pieces = [
        read_batch(model, pad_left(rows[i : i + batch_size], pad_id), sites, positions).float().cpu()
        for i in range(0, len(rows), batch_size)
    ]
    values = torch.cat(pieces)
    if not values.isfinite().all():
        prompt, layer, _ = (~values.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(
            f"Activation of {sites.component} at layer {sites.resolve(model.cfg.n_layers)[layer]} is not finite "
            f"on prompt {prompts[prompt]!r}; check the checkpoint, or load it in a wider dtype."
        )
    return values


class Endpoints(NamedTuple):
    """Activations of the same prompts at both ends of v_rev, in the order that `ReversionDirection.fit` takes them."""

    reference: Float[Tensor, "prompt layer d_model"]
    aligned: Float[Tensor, "prompt layer d_model"]


def read_endpoints(
    history: TrainingHistory, prompts: Sequence[str], sites: Sites | None = None, positions: Positions = "last"
) -> Endpoints:
    """Activations under the reference and the aligned checkpoint.

    One model is in memory at a time, and nothing is written; see `capture` for whole histories.

    Raises:
        ProbeError, SiteError, NonFiniteError: see `read_prompts` and `Sites`.
    """
    return Endpoints(*(read_prompts(c.load(), prompts, sites, positions) for c in (history.reference, history.aligned)))


def capture(
    history: TrainingHistory,
    probes: Probes,
    root: str | Path,
    *,
    sites: Sites | None = None,
    positions: Positions = "last",
    splits: Sequence[str] | None = None,
    batch_size: int = 64,
    on_checkpoint: Callable[[str], None] = lambda name: None,
) -> Activations:
    """Capture activations at every checkpoint of a history, one model in memory at a time.

    Resumes: a checkpoint whose file is there is not run again. The folder remembers what it holds (sources of the
    weights, probes, sites), and refuses anything else.

    Args:
        history: the checkpoints.
        probes: the prompts.
        root: folder for the safetensors files.
        sites: component and layers; resid_post of every layer if None.
        positions: position policy.
        splits: which probe splits; all of them if None.
        batch_size: prompts per forward pass.
        on_checkpoint: called with each checkpoint's name when it is done.

    Raises:
        ProbeError, SiteError, NonFiniteError: see `read_prompts`, `Sites`, `Probes`.
        ResultsError: if the folder belongs to another capture.
    """
    root, sites = Path(root), sites or Sites()
    splits = list(probes.splits if splits is None else splits)
    prompts = {split: probes[split] for split in splits}
    layers = sites.resolve(history.n_layers)
    claim(
        root,
        {
            "checkpoints": [checkpoint.name for checkpoint in history],
            "sources": [checkpoint.source.identity() for checkpoint in history],
            "dtype": str(history.dtype),
            "layers": list(layers),
            "component": sites.component,
            "positions": positions,
            "splits": {split: len(prompts[split]) for split in splits},
            "probes": probes.fingerprint(),
        },
    )
    for checkpoint in history:
        if not checkpoint_file(root, checkpoint.name).is_file():
            model = checkpoint.load()
            write_checkpoint(
                root,
                checkpoint.name,
                {split: read_prompts(model, prompts[split], sites, positions, batch_size=batch_size) for split in splits},
            )
        on_checkpoint(checkpoint.name)
    return Activations.open(root)
