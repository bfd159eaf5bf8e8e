"""Llamas on disk whose weights determine their residual streams, and so v_rev, drift and patched fractions.

The first block's attention averages a code of each token into the last one, apart from the axes below, so
that prompts differ. It is the same in every checkpoint. No other attention and no MLP reads anything: block l
adds its MLP's bias, the checkpoint's own ``writes[l]``. Axis 0 of every token's embedding is `CONSTANT`. The
unembedding reads axes of the stream: `along_axis` is then a quotient in which the final norm cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from revlens.history import TrainingHistory
from revlens.organism.model import train_tokenizer

D_MODEL, N_LAYERS, CONSTANT = 16, 4, 4.0
#: Axes of the stream that checkpoints write to; tokens have no part in them.
PLANTED = (1, 2, 3)


@torch.no_grad()
def save_planted(path: Path, writes: Float[Tensor, "layer d_model"]) -> Path:
    """Save a checkpoint whose block l adds ``writes[l]`` to the stream of every token."""
    tokenizer = train_tokenizer(["any text"], 264)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=D_MODEL, intermediate_size=8, num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        mlp_bias=True, tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    tokens = 0.6 * torch.randn(len(tokenizer), D_MODEL, generator=torch.Generator().manual_seed(0))
    tokens[:, list(PLANTED)] = 0.0
    tokens[:, 0] = CONSTANT
    model.model.embed_tokens.weight.copy_(tokens)
    # Keys and queries are zero, so attention is uniform; what it moves leaves out the constant and the
    # planted axes.
    moved = torch.eye(D_MODEL)
    moved[[0, *PLANTED]] = 0.0
    model.model.layers[0].self_attn.v_proj.weight.copy_(moved)
    model.model.layers[0].self_attn.o_proj.weight.copy_(torch.eye(D_MODEL))
    for layer, write in zip(model.model.layers, writes, strict=True):
        layer.mlp.down_proj.bias.copy_(write)
    model.lm_head.weight[:D_MODEL].copy_(torch.eye(D_MODEL))  # token i of the vocabulary reads axis i
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def planted_history(
    root: Path,
    reference: Float[Tensor, "layer d_model"],
    aligned: Float[Tensor, "layer d_model"],
    steps: dict[int, Float[Tensor, "layer d_model"]],
) -> TrainingHistory:
    """A history of planted checkpoints on disk."""
    fine_tuned = {step: save_planted(root / f"step-{step}", writes) for step, writes in steps.items()}
    return TrainingHistory.from_dirs(
        save_planted(root / "reference", reference), save_planted(root / "aligned", aligned), fine_tuned
    )


def along_axis(axis: int) -> Callable[[Tensor], Tensor]:
    """A metric: the final stream along an axis, in activation units, whatever the final norm."""
    return lambda logits: CONSTANT * logits[:, axis] / logits[:, 0]


def axis(index: int) -> Float[Tensor, " d_model"]:
    """A basis vector of the stream."""
    return torch.eye(D_MODEL)[index]
