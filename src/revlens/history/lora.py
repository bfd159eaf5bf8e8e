"""A bridge with fresh LoRA layers, to be fine-tuned."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError
from revlens.history.adapter import Adapter
from revlens.history.hub import Hub
from revlens.history.peft_layers import base_of, inject
from revlens.history.source import Source
from revlens.history.wrap import wrap


def boot_with_lora(
    source: Source,
    config: LoraConfig,
    seed: int,
    dtype: torch.dtype = torch.float32,
    reader: Source | None = None,
) -> TransformerBridge:
    """A bridge of a source with a new LoRA adapter: only the adapter's weights require gradients.

    The adapter's second factor is zero, so that the bridge starts as the base. `revlens.history.save` saves
    it.

    Args:
        source: the base model.
        config: peft's. With target_modules None, peft chooses for the family; ``"all-linear"`` is every
            linear layer but the unembedding.
        seed: fixes the adapter's first factor.
        dtype: of the base; the adapter is float32.
        reader: whose tokenizer and chat template encode prompts; the base's own if None.

    Raises:
        ConfigError: if the configuration trains other weights as well, or does not start at the base.
        HistoryError: if the model has no such target modules, or its bridge does not compute with them.
    """
    for name, off in (("bias", "none"), ("modules_to_save", None), ("trainable_token_indices", None)):
        if getattr(config, name) not in (off, [], {}):
            raise ConfigError(f"{name}={getattr(config, name)!r} trains weights of the base; use {off!r}.")
    if config.init_lora_weights not in (True, "gaussian"):
        raise ConfigError(
            f"init_lora_weights={config.init_lora_weights!r} does not start at the base; "
            "use True or 'gaussian'."
        )
    if isinstance(source, Adapter):
        raise ConfigError(
            f"{source.identity()} has an adapter already; "
            "merge it into its base first (peft's merge_and_unload)."
        )
    config = copy.deepcopy(config)
    # Saved with the adapter, to find its base again.
    config.revision = source.commit if isinstance(source, Hub) else None
    model = source.module(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft_model = inject(model, config)
    return wrap(base_of(peft_model), (reader or source).tokenizer())
