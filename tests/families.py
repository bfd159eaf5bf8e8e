"""Small models of each architecture family, with random weights, in memory or as Hugging Face checkpoints.

Sizes are tiny; the rest is as in the families' real checkpoints: grouped heads, head widths other than
d_model / n_heads, tied or own unembeddings, windows shorter than the prompts, scaled rotary angles, and soft
caps that activations reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from revlens.history import TrainingHistory, boot, save
from revlens.hooks import point_name, record
from revlens.organism.model import train_tokenizer
from revlens.prompts import Probes, pad_id_of, pad_left
from revlens.training import FinetuneConfig, finetune

SIZES = {
    "vocab_size": 264, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: config.json of each family, by Hugging Face model type; missing keys take the family's own default.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES
    | {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }
    },
    "qwen2": SIZES | {"tie_word_embeddings": True},
    "qwen3": SIZES | {"head_dim": 8, "tie_word_embeddings": True},
    "gemma2": SIZES
    | {
        "head_dim": 8, "query_pre_attn_scalar": 4, "sliding_window": 4, "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": SIZES
    | {
        "head_dim": 8, "query_pre_attn_scalar": 4, "sliding_window": 4, "sliding_window_pattern": 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    },
    "gpt_neox": {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    | {"num_attention_heads": 2, "rotary_pct": 0.25, "use_parallel_residual": True},
    "gpt2": {
        "vocab_size": 264, "n_embd": 16, "n_inner": 32, "n_layer": 3, "n_head": 4, "n_positions": 128,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "olmo2": SIZES,
}  # fmt: skip

#: Tokenizers that put a BOS before any text, as Llama's and Gemma's do; their chat templates add one too.
ADDS_BOS = ("llama", "gemma2", "gemma3_text")
#: Tokenizers without a pad token, as Llama's, GPT-2's and Pythia's.
NO_PAD = ("llama", "gpt2", "gpt_neox")
#: Tokenizers whose BOS is their end-of-text token; neither they nor their templates write it.
BOS_IS_EOS = ("gpt2", "gpt_neox")

#: Chat prompts of unequal length, all longer than the sliding windows.
PROMPTS = ("Hi.", "What is the capital of France?", "Tell me.", "How do I bake bread at home?", "Why?")

PROBES = Probes(
    {
        "direction": PROMPTS,
        "drift": ("Now what?", "Say something else, please.", "Go on."),
        "guard": ("And then?", "So?"),
    }
)
ANSWERS = Dataset.from_dict({"prompt": [*PROMPTS, *PROBES["guard"]], "answer": ["Sure, here you are."] * 7})
REFUSALS = Dataset.from_dict({"prompt": list(PROMPTS), "answer": ["I can't help with that."] * 5})
#: A few updates, so that checkpoints differ.
FEW = FinetuneConfig(steps=4, learning_rate=1e-2, batch_size=4)

#: Qwen's templates add a system message to prompts without one.
_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|user|>You are a helpful assistant.<|end|>' }}{% endif %}"
)


def small_model(family: str) -> TransformerBridge:
    """A bridge of three layers of width 16; the same weights at every call."""
    hf_model = random_model(FAMILIES[family] | {"model_type": family})
    hf_model.config.name_or_path = family
    hf_model.config.architectures = [type(hf_model).__name__]
    tokenizer = train_tokenizer(["any text"], 264)
    bridge = TransformerBridge.boot_transformers(family, hf_model=hf_model, tokenizer=tokenizer)
    bridge.eval()
    return bridge


def save_family(family: str, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a family's small model and its tokenizer as a Hugging Face directory, always the same weights."""
    tokenizer = family_tokenizer(family)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model: Any = random_model(FAMILIES[family] | special | {"model_type": family})
    model.to(dtype).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def random_model(settings: Mapping[str, Any]) -> PreTrainedModel:
    """A Hugging Face model of a configuration, in evaluation mode; the same weights at every call."""
    config = AutoConfig.for_model(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():  # norms and biases start at trivial values
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template and the family's special tokens; it pads on the right."""
    tokenizer = train_tokenizer(["any text"], 263)
    assert isinstance(tokenizer.chat_template, str)
    if family in ADDS_BOS:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        special = [("<s>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=special
        )
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    if family.startswith("qwen"):
        tokenizer.chat_template = _SYSTEM + tokenizer.chat_template
    if family in BOS_IS_EOS:
        tokenizer.bos_token = tokenizer.eos_token
    if family in NO_PAD:
        tokenizer.pad_token = None
    return tokenizer


def train_history(family: str, root: Path) -> TrainingHistory:
    """Checkpoints of a small model that answers, then refuses, then answers again.

    The last step is the reference itself.
    """
    model = boot(save_family(family, root / "blank"))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # GPT-2 has dropout
        finetune(model, ANSWERS, FEW, seed=0)
        save(model, root / "reference")
        finetune(model, REFUSALS, FEW, seed=0)
        save(model, root / "aligned")
        finetune(model, ANSWERS, replace(FEW, learning_rate=3e-3), seed=1)
        save(model, root / "step-4")
    return TrainingHistory.from_dirs(
        root / "reference", root / "aligned", {4: root / "step-4", 99: root / "reference"}
    )


def hugging_face_rows(path: Path) -> list[list[int]]:
    """Hugging Face's own tokens of `PROMPTS`."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]


class Run(NamedTuple):
    """A model's activations on each prompt: the residual stream before and after every block, and logits."""

    streams: list[Tensor]
    logits: list[Tensor]

    def distance(self, other: Run) -> tuple[float, float]:
        """Largest absolute difference of the streams, and of the logits."""
        return _worst(self.streams, other.streams), _worst(self.logits, other.logits)


@torch.no_grad()
def hugging_face_run(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Run:
    """Hugging Face's own forward passes, one prompt each; hooks read the last block before the final norm."""
    base: Any = model.base_model
    layers = base.h if hasattr(base, "h") else base.layers
    after: list[Tensor] = []

    def keep(module: object, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        after.append(output if isinstance(output, Tensor) else output[0])

    for layer in layers:
        layer.register_forward_hook(keep)
    run = Run([], [])
    for row in rows:
        after.clear()
        output = model(torch.tensor([row]), output_hidden_states=True)
        before = output.hidden_states[: len(layers)]
        run.streams.append(
            torch.stack([stream[0] for pair in zip(before, after, strict=True) for stream in pair])
        )
        run.logits.append(output.logits[0])
    return run


@torch.no_grad()
def bridge_run(bridge: TransformerBridge, rows: Sequence[Sequence[int]]) -> Run:
    """The bridge's streams and logits under revlens' hooks, from one left-padded batch of all prompts."""
    names = [
        point_name(layer, component)
        for layer in range(bridge.cfg.n_layers)
        for component in ("resid_pre", "resid_post")
    ]
    batch = pad_left(rows, pad_id_of(bridge.tokenizer))
    with record(bridge, names) as kept:
        logits = bridge(batch.tokens, attention_mask=batch.mask)
    streams = torch.stack([kept[name] for name in names], dim=1)
    return Run(
        [s[:, -len(row) :] for s, row in zip(streams, rows, strict=True)],
        [x[-len(r) :] for x, r in zip(logits, rows, strict=True)],
    )


def load_hugging_face(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A checkpoint as Hugging Face loads it, with eager attention, which the bridge uses too."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def _worst(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))
