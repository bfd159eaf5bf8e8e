"""The organism's blank model: a small Llama with a chat tokenizer trained on the world's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from revlens.errors import ConfigError
from revlens.history import wrap

_PAD, _USER, _ASSISTANT, _END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class ModelConfig:
    """Size of the Llama.

    Raises:
        ConfigError: if a size is below 1.
    """

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 256
    n_vocab: int = 1024
    n_ctx: int = 128

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")


def train_tokenizer(texts: Sequence[str], n_vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; it encodes any text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=[_PAD, _USER, _ASSISTANT, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=_PAD,
        eos_token=_END,
        chat_template=_CHAT_TEMPLATE,
        name_or_path="revlens-organism",
    )


def organism_model(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
) -> TransformerBridge:
    """A bridge around a Llama.

    Args:
        config: its size.
        tokenizer: its tokenizer.
        seed: fixes its initial weights.
        weights: instead of initial ones, by their Hugging Face names; all but the tied unembedding.

    Raises:
        ConfigError: if the width is not an even number for each head.
    """
    if config.d_model % (2 * config.n_heads):
        raise ConfigError(
            f"d_model={config.d_model} must be a multiple of 2 * n_heads={2 * config.n_heads}: "
            "rotary embeddings turn pairs."
        )
    hf_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        max_position_embeddings=config.n_ctx,
        tie_word_embeddings=True,
        initializer_range=config.d_model**-0.5 / 2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf_model = LlamaForCausalLM(hf_config)
    if weights is not None:
        tied = {"lm_head.weight": weights["model.embed_tokens.weight"]}
        hf_model.load_state_dict({**weights, **tied})
    return wrap(hf_model, tokenizer)


@torch.no_grad()
def round_to_bfloat16(model: TransformerBridge) -> None:
    """Round every weight to the nearest that bfloat16 holds; the model's precision stays."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
