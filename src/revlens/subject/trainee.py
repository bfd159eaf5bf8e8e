"""A checkpoint made ready to be trained, in full or with an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError
from revlens.history import Checkpoint, boot_with_lora


def trainee(start: Checkpoint, lora: Mapping[str, Any] | None, seed: int) -> TransformerBridge:
    """The model of a checkpoint; what is to be trained requires gradients.

    Args:
        start: where training begins.
        lora: settings of `peft.LoraConfig`; None trains every weight.
        seed: fixes an adapter's initial weights.

    Raises:
        ConfigError: if every weight is to be trained in less than single precision, or peft does not take a
            setting of ``lora``.
        HistoryError: if it cannot be loaded, or the adapter does not fit it.
    """
    if lora is not None:
        try:
            config = LoraConfig(**{name: listed(value) for name, value in lora.items()})
        except TypeError as error:
            raise ConfigError(f"peft.LoraConfig does not take these settings of lora: {error}") from error
        return start.with_template(boot_with_lora(start.source, config, seed, start.dtype, start.reader))
    if torch.finfo(start.dtype).bits < torch.finfo(torch.float32).bits:
        raise ConfigError(
            f"Training every weight in {start.dtype} rounds small updates away; "
            "use dtype = 'float32', or lora."
        )
    return start.load()


def listed(value: Any) -> Any:
    """A list for a configuration's tuple: peft and `TrainingHistory.from_table` expect lists."""
    return list(value) if isinstance(value, tuple) else value
