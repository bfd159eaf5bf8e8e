"""What the first update of a fine-tune does to the probes, told before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_batch
from revlens.direction import Drift, ReversionDirection
from revlens.errors import ProbeError
from revlens.hooks import the_bridge
from revlens.prompts import Batch, Probes
from revlens.screening.forward_mode import Weights, derivative_along
from revlens.screening.reversion_gradient import add_gradient, probe_batches, reversion_gradient
from revlens.screening.updates import adamw_update, clipping
from revlens.training import (
    ChatBatch,
    FinetuneConfig,
    answer_loss,
    batches,
    count_answer_tokens,
    micro_batches,
    trained_parameters,
)


class FirstUpdate(NamedTuple):
    """The drift that the first update of a fine-tune causes, to first order; each drift has the one step 1.

    Attributes:
        plain: of a plain gradient step, which is not clipped.
        adamw: of AdamW's, as `revlens.training.finetune` makes it.
        cosine: of the plain step with the gradient of the reversion fraction, in weight space: what share of
            the step's length goes where the fraction grows fastest.
    """

    plain: Drift
    adamw: Drift
    cosine: float


def first_update(
    aligned: nn.Module,
    data: Dataset,
    v_rev: ReversionDirection,
    probes: Probes,
    config: FinetuneConfig,
    *,
    seed: int,
    split: str = "drift",
    batch_size: int = 64,
) -> FirstUpdate:
    """Predict the drift after one update of `revlens.training.finetune`, with the batch that it would take.

    The drift D_l = (da_l/dtheta) u of the mean activation at the last prompt token comes from one
    forward-mode pass over the probes; no weight is changed. The learning rate is that of the first update, so
    warm-up counts.

    Args:
        aligned: the bridge that fine-tuning starts from; left in evaluation mode, so without dropout.
        data: columns ``prompt`` and ``answer``.
        v_rev: the reversion direction.
        probes: the prompts on which drift is measured.
        config: of the fine-tune.
        seed: of the fine-tune; it draws the batch.
        split: which probes; another split than that of v_rev.
        batch_size: probes per pass.

    Raises:
        ProbeError: if v_rev was estimated on ``split``, or there is no such split.
        ModelError: see `revlens.hooks.the_bridge` and `derivative_along`.
        ConfigError, SiteError: see `reversion_gradient` and `revlens.training.batches`.
    """
    model = the_bridge(aligned)
    if v_rev.split == split:
        raise ProbeError(
            f"v_rev was estimated on the split {split!r}: the cosine would be biased. Use another split, "
            "such as 'drift'."
        )
    model.eval()
    stream = batches(
        model.tokenizer,
        data,
        batch_size=config.batch_size,
        seed=seed,
        sort_window=config.sort_window,
        model=model,
    )
    trained = trained_parameters(model)
    towards = reversion_gradient(model, v_rev, probes[split], batch_size=batch_size)
    gradient = _task_gradient(model, trained, next(stream), config.micro_batch_size)
    rate, scale = config.rate_at(0), clipping(gradient.values(), config)
    plain = {name: -rate * config.learning_rate * g for name, g in gradient.items()}
    adamw = {
        name: rate * adamw_update(scale * gradient[name], parameter.detach(), config)
        for name, parameter in trained.items()
    }
    prompts = probe_batches(model, probes[split], batch_size)
    drifts = {
        name: Drift.along(_drift(model, update, prompts, v_rev.layers)[None], v_rev, (1,))
        for name, update in {"plain": plain, "adamw": adamw}.items()
    }
    inner = sum(float((plain[name] * towards[name]).sum()) for name in plain)
    cosine = inner / (_norm(plain) * _norm(towards))
    return FirstUpdate(drifts["plain"], drifts["adamw"], cosine)


def _task_gradient(
    model: TransformerBridge, trained: Mapping[str, nn.Parameter], batch: ChatBatch, size: int | None
) -> dict[str, Tensor]:
    """Gradient of the batch's answer loss, ``size`` rows at a time; zero where nothing depends on it."""
    gradient = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    for part, share in micro_batches(batch, size, count_answer_tokens(batch)):
        with torch.enable_grad():
            add_gradient(gradient, share * answer_loss(model, part), trained)
    return gradient


def _drift(
    model: TransformerBridge, update: Weights, prompts: list[Batch], layers: tuple[int, ...]
) -> Float[Tensor, "layer d_model"]:
    """D of the mean activation along an update, in float64 on the CPU."""
    sites = Sites(layers=layers)
    total, n = torch.zeros(len(layers), model.cfg.d_model, dtype=torch.float64), 0
    for batch in prompts:
        _, moved = derivative_along(model, update, partial(read_batch, model, batch, sites))
        total, n = total + moved.double().cpu().sum(0), n + len(moved)
    return total / n


def _norm(weights: Weights) -> float:
    return float(torch.stack([part.norm() for part in weights.values()]).norm())
