"""What the code knows about model families, in one table; docs/families.md has what was measured on them.

TransformerLens' bridges carry nearly all differences between families. A name or a class of a family that
revlens needs beyond that is an entry here, and nowhere else. What the code finds out by looking at a model
has no entry: which arguments its forward takes, what its cache keeps, whether weights are tied, which tokens
its tokenizer adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    JointGateUpMLPBridge,
    JointQKVAttentionBridge,
    JointQKVPositionEmbeddingsAttentionBridge,
    ParallelBlockBridge,
    PositionEmbeddingsAttentionBridge,
)
from transformers.pytorch_utils import Conv1D

#: Names in config.json of what all checkpoints of a history share, so that their activations can be compared.
CONFIG_NAMES: Mapping[str, tuple[str, ...]] = {
    "family": ("model_type",),
    "width": ("hidden_size", "n_embd", "d_model"),
    "MLP width": ("intermediate_size", "n_inner"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "key and value heads": ("num_key_value_heads",),
    "head width": ("head_dim",),
}

#: Names in a model's configuration of its longest text, in tokens.
CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len")
#: Families that compute positions, but only up to that length; those with a table are found by looking.
FIXED_CONTEXT = ("mpt",)
#: Families that have a table of positions and lengthen it when a text needs it.
GROWING_CONTEXT = ("xglm",)


class FusedParts(NamedTuple):
    """A bridge component that computes with split copies of one fused Hugging Face weight.

    Attributes:
        component: its class.
        fused_name: the fused module's attribute of the Hugging Face module that the component wraps.
        split: the component's method that makes the copies.
        parts: its attributes that hold them, in the order of ``split``.
    """

    component: type[nn.Module]
    fused_name: Callable[[Any], str]
    split: str
    parts: tuple[str, ...]


#: GPT-2, GPT-NeoX and Falcon fuse queries, keys and values; Phi-3 also gate and up.
FUSED = (
    FusedParts(
        JointQKVAttentionBridge,
        lambda attention: attention.submodules["qkv"].name,
        "split_qkv_matrix",
        ("q", "k", "v"),
    ),
    FusedParts(JointGateUpMLPBridge, lambda mlp: mlp.fused_attr, "split_gate_up_matrix", ("gate", "in")),
)

#: A block's norms of what it writes to the residual stream, in Gemma 2, Gemma 3 and OLMo 2.
NORMS_OF_WRITES = ("ln1_post", "ln2_post")

#: Blocks and attentions that let rows join a forward pass on its way: masks and rotary angles broadcast over
#: the rows, keys and values go through the cache. Of these classes only: subclasses may do otherwise.
JOINABLE_BLOCKS: tuple[type[nn.Module], ...] = (BlockBridge, ParallelBlockBridge)
JOINABLE_ATTENTIONS: tuple[type[nn.Module], ...] = (
    JointQKVAttentionBridge,
    JointQKVPositionEmbeddingsAttentionBridge,
    PositionEmbeddingsAttentionBridge,
)

#: Modules that multiply by a weight matrix; GPT-2 has Conv1D, which keeps the matrix transposed.
Linear = nn.Linear | Conv1D


def outputs_first(module: nn.Module, matrix: Float[Tensor, "a b"]) -> Float[Tensor, "c d"]:
    """A linear module's matrix with output features in rows, as a view; its own inverse."""
    return matrix.T if isinstance(module, Conv1D) else matrix
