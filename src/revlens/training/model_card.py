"""A section of a model card: the reversion measured on a fine-tuned model, its guard, and what made it."""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass
from importlib.metadata import version
from typing import Any

from torch import nn

from revlens.training.guard import Guard
from revlens.training.monitor import Monitor
from revlens.training.precision import weights_precision

_LIBRARIES = ("revlens", "torch", "transformers", "peft")


def model_card_section(model: nn.Module, monitor: Monitor, guard: Guard | None, *, seed: int) -> str:
    """Markdown on what a fine-tune did to a model's place along v_rev, measured on the model as it now is.

    Args:
        model: after training, as it will be saved.
        monitor: fixed at the aligned model before training; its probes measure the motion.
        guard: that the training had, if any.
        seed: of the training.
    """
    with weights_precision(model):
        reading = monitor.measure(model, step=0)
    rows = {
        "reversion fraction (0: aligned model, 1: permissive reference)": (reading.fraction, ".1%"),
        "alignment of the drift with v_rev (cosine)": (reading.alignment, ".3f"),
        "displacement along v_rev (activation units)": (reading.displacement, ".4g"),
        "length of the drift (activation units)": (reading.drift_norm, ".4g"),
    }
    table = "\n".join(
        f"| {name} | {values.mean():{form}} | {values.min():{form}} | {values.max():{form}} |"
        for name, (values, form) in rows.items()
    )
    layers = monitor.motion.layers
    return f"""## Reversion under fine-tuning

How far this fine-tune moved the model back towards a permissive one, along the reversion direction v_rev
([arXiv 2606.28525](https://arxiv.org/abs/2606.28525)): the motion of the mean activation at the last prompt
token of {len(monitor.motion.batch.tokens)} held-out probes since the aligned model, at {len(layers)} layers.

| | mean | lowest layer | highest layer |
|---|---|---|---|
{table}

- Guard: {"none" if guard is None else _described(guard)}.
- A random direction of this width has a cosine of at most {monitor.threshold:.3f} with probability 0.99.
- Seed {seed}. Made with {", ".join(f"{name} {version(name)}" for name in _LIBRARIES)}.

This is one training run, and says where the model lies, not what it replies: judge its replies as well.
"""


def _described(guard: Guard) -> str:
    """A guard's class and its settings that are numbers; a wrapper's with those of the guard within."""
    own: tuple[Field[Any], ...] = fields(guard) if is_dataclass(guard) else ()
    values = {
        field.name: getattr(guard, field.name)
        for field in own
        if field.init and not field.name.startswith("_")
    }
    settings = [
        f"{name} {value:g}"
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    within = [f"({_described(value)})" for value in values.values() if isinstance(value, Guard)]
    name = type(guard).__name__
    return " ".join([name, *within]) + "".join(f", {setting}" for setting in settings)
