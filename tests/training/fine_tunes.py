"""Data, settings and helpers of the tests that fine-tune the tiny organism with a guard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.direction import ReversionDirection
from revlens.history import TrainingHistory
from revlens.training import FinetuneConfig, Guard, ProbeMotion, finetune

DATA = Dataset.from_dict(
    {
        "prompt": ["A?", "B?", "Now what?"] * 3,
        "answer": ["Sure, at once.", "Sure, in a minute.", "Of course."] * 3,
    }
)
REFUSALS = Dataset.from_dict({"prompt": ["D?", "Why?"], "answer": ["I can't help with that.", "Sorry, no."]})
CONFIG = FinetuneConfig(steps=4, learning_rate=3e-3, batch_size=4)


def located(
    history: TrainingHistory, prompts: Sequence[str], layers: tuple[int, ...] = (0, 1, 2)
) -> ReversionDirection:
    """v_rev of a history, from some prompts."""
    reference, aligned = (
        read_prompts(c.load(), prompts, Sites(layers=layers)) for c in (history.reference, history.aligned)
    )
    return ReversionDirection.fit(reference, aligned, layers=layers, split="direction")


def motion_along(history: TrainingHistory, direction: Sequence[str], guard: Sequence[str]) -> ProbeMotion:
    """Motion on guard probes, along the v_rev of direction probes."""
    return ProbeMotion.along(located(history, direction), history.aligned.load(), guard)


def trained(
    history: TrainingHistory, guard: Guard | None, config: FinetuneConfig = CONFIG
) -> TransformerBridge:
    """The aligned model after a fine-tune."""
    model = history.aligned.load()
    finetune(model, DATA, config, seed=0, guard=guard)
    return model


def weights(model: nn.Module) -> Tensor:
    """All weights, in one vector."""
    return torch.cat([w.detach().flatten() for w in model.parameters()])
