"""Chat templates as checkpoints have them, in the tokens of the organism's tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from families import FAMILIES, random_model
from revlens.history import wrap
from revlens.organism.model import train_tokenizer

_TURN = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + END }}{% endfor %}"
_PROMPT = "{% if add_generation_prompt %}{{ '<|assistant|>' }}OPENING{% endif %}"


def template(end: str, opening: str = "", start: str = "") -> str:
    """A template that ends turns with ``end`` (a Jinja expression) and opens answers with ``opening``."""
    return start + _TURN.replace("END", end) + _PROMPT.replace("OPENING", opening)


def tokenizer_with(chat_template: str, added: tuple[str, ...] = ("<|eot|>",)) -> PreTrainedTokenizerFast:
    """The organism's tokenizer, whose end of sequence is ``<|end|>``, with further special tokens."""
    tokenizer = train_tokenizer(["any text"], 263)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    tokenizer.chat_template = chat_template
    return tokenizer


def bridge_with(
    tokenizer: PreTrainedTokenizerBase, family: str = "llama", **settings: Any
) -> TransformerBridge:
    """A small model of a family with this tokenizer; its configuration names no end of sequence."""
    sizes = FAMILIES[family] | {"model_type": family, "vocab_size": len(tokenizer), "eos_token_id": None}
    return wrap(random_model(sizes | settings), tokenizer)


def writes(bridge: TransformerBridge, ids: list[int]) -> None:
    """Make the bridge reply with these tokens, whatever the prompt; the last one comes for ever."""
    position = {"next": 0}

    def steer(module: object, args: object, output: Any) -> Any:
        forced = ids[min(position["next"], len(ids) - 1)]
        position["next"] += 1
        output.logits = torch.zeros_like(output.logits)
        output.logits[..., forced] = 1.0
        return output

    bridge.original_model.register_forward_hook(steer)
