"""One small model per architecture family, with random weights: laws of hooks do not depend on training."""

from __future__ import annotations

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM

from revlens.organism.model import train_tokenizer

SIZES = {
    "vocab_size": 264, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "gemma2": SIZES | {"query_pre_attn_scalar": 4, "sliding_window": 32},
    "olmo2": SIZES,
    "gpt2": {
        "vocab_size": 264, "n_embd": 16, "n_inner": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2,
    },
    "gpt_neox": {name: size for name, size in SIZES.items() if name not in ("num_key_value_heads", "head_dim")},
}  # fmt: skip


def small_model(family: str) -> TransformerBridge:
    """A bridge of three layers of width 16; the same weights at every call."""
    config = AutoConfig.for_model(family, **FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf_model = AutoModelForCausalLM.from_config(config)
        for parameter in hf_model.parameters():  # norms and biases start at trivial values
            parameter.data += 0.1 * torch.randn_like(parameter)
    hf_model.config.name_or_path = family
    hf_model.config.architectures = [type(hf_model).__name__]
    tokenizer = train_tokenizer(["any text"], 264)
    bridge = TransformerBridge.boot_transformers(family, hf_model=hf_model, tokenizer=tokenizer)
    bridge.eval()
    return bridge
