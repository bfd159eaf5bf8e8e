"""Small GGUF files, written with the package gguf as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from families import family_tokenizer, random_model

#: What config.json says, beside the sizes. Gemma 2's soft caps and query scale are in no file: they are the
#: family's defaults.
WRITTEN: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4},
}
_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def gguf_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer that a file of Llama or Qwen 2 holds; only its template writes a BOS."""
    tokenizer = family_tokenizer(family)
    tokenizer.backend_tokenizer.post_processor = None
    return tokenizer


def gguf_model(family: str) -> PreTrainedModel:
    """The model that the file holds, before it is quantised; the same weights at every call."""
    tokenizer = gguf_tokenizer(family)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return random_model(_SIZES | WRITTEN[family] | ids | {"model_type": family, "vocab_size": len(tokenizer)})


def write_gguf(
    path: Path,
    family: str = "llama",
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str | None = None,
    template: bool = True,
    extra: Mapping[str, str] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write the family's model with its matrices in a quantisation.

    Args:
        path: where to.
        family: one of `WRITTEN`.
        kind: of the matrices; norms and biases stay in single precision.
        architecture: what the file says that it is.
        template: whether it holds the chat template; Gemma's does.
        extra: more metadata.
        tensors: more tensors.
    """
    model, tokenizer = gguf_model(family), gguf_tokenizer(family)
    config, name = model.config, architecture or family
    writer = gguf.GGUFWriter(path, name)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if family == "llama":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if family == "gemma2":
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma2":
        _add_sentencepieces(writer, config.vocab_size)
    else:
        _add_tokenizer(writer, tokenizer, template)
    for key, value in (extra or {}).items():
        writer.add_string(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], config.num_hidden_layers)
    for hf_name, tensor in model.state_dict().items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        if family == "llama" and "q_proj" in hf_name:
            array = _interleaved(array, config.num_attention_heads)
        if family == "llama" and "k_proj" in hf_name:
            array = _interleaved(array, config.num_key_value_heads)
        if family == "gemma2" and hf_name.endswith("norm.weight"):
            array = array + 1
        own = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        stem, suffix = hf_name.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quantize(array, own), raw_dtype=own)
    for tensor_name, array in (tensors or {}).items():
        writer.add_tensor(tensor_name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, template: bool) -> None:
    vocabulary = {index: token for token, index in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in sorted(vocabulary)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([vocabulary[index] for index in sorted(vocabulary)])
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for name, index in (("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id)):
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if template:
        assert isinstance(tokenizer.chat_template, str)
        writer.add_chat_template(tokenizer.chat_template)


def _add_sentencepieces(writer: gguf.GGUFWriter, n_tokens: int) -> None:
    """Gemma's kind of vocabulary: special tokens, bytes, characters and one word."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|user|>", "<|end|>", "<|assistant|>"]
    pieces = [*"\u2581abcdefghijklmnopqrstuvwxyzHITWCF.?,", "he", "the"]
    filling = [f"<unused{i}>" for i in range(n_tokens - len(special) - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*special, *filling, *pieces])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control] * (n_tokens - len(pieces)) + [normal] * len(pieces))
    writer.add_token_scores([0.0] * (n_tokens - len(pieces)) + [-float(i) for i in range(len(pieces))])
    for name, index in (("pad", 0), ("eos", 1), ("bos", 2), ("unk", 3)):
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ bos_token }}" + _TEMPLATE)


def _interleaved(matrix: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: the two halves of a rotary pair lie side by side."""
    halves = matrix.reshape(n_heads, 2, -1, matrix.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(matrix.shape))
