"""Residual streams and logits of a model in training, be it a bridge or a plain Hugging Face model with or without an adapter.

A Trainer trains a Hugging Face model. Booting a bridge from it would replace its modules and change the names that it is saved
under, so its streams are read and edited by torch's own hooks on the decoder layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.activations import Sites, read_batch
from revlens.errors import GuardError
from revlens.hooks import Edit, as_hook, point_name
from revlens.prompts import Batch, encode_prompts, pad_id_of, pad_left


def read_streams(
    model: nn.Module, batch: Batch, layers: tuple[int, ...]
) -> Float[Tensor, "prompt layer d_model"]:
    """The residual stream after each layer at the last prompt token, with a gradient unless it is switched off outside.

    Dropout is off while the probes are read: its noise would pass for motion.

    Args:
        model: a bridge or a Hugging Face model.
        batch: left-padded prompts.
        layers: increasing layer indices.
    """
    with _without_dropout(model):
        if isinstance(model, TransformerBridge):
            return read_batch(model, batch, Sites(layers=layers))
        ends = batch.mask.sum(1) - 1
        kept: dict[int, Tensor] = {}

        def keep(layer: int) -> Edit:
            def keeping(stream: Tensor) -> Tensor:
                kept[layer] = stream[torch.arange(len(stream), device=stream.device), ends.to(stream.device)]
                return stream

            return keeping

        with edit_streams(model, {layer: keep(layer) for layer in layers}):
            _forward(model, batch, torch.zeros(1, dtype=torch.long))
        return torch.stack([kept[layer] for layer in layers], dim=1)


def read_logits(model: nn.Module, batch: Batch, last: int = 1) -> Float[Tensor, "prompt last d_vocab"]:
    """Logits at the last tokens of each row, with a gradient unless it is switched off outside. Dropout is off.

    Args:
        model: a bridge or a Hugging Face model.
        batch: left-padded rows of at least ``last`` tokens.
        last: how many tokens.
    """
    with _without_dropout(model):
        if isinstance(model, TransformerBridge):
            device = next(model.parameters()).device
            return model(batch.tokens.to(device), attention_mask=batch.mask.to(device))[:, -last:]
        wanted = batch.mask.sum(1, keepdim=True) - last + torch.arange(last, device=batch.mask.device)
        columns, where = wanted.unique(
            return_inverse=True
        )  # the unembedding is dear: it is computed where it is wanted
        logits, is_short = _forward(model, batch, columns)
        index = (where if is_short else wanted).to(logits.device)
        return logits[torch.arange(len(index), device=logits.device)[:, None], index]


def logits_of(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of right-padded tokens at every position; under causal attention the padding changes nothing before it."""
    if isinstance(model, TransformerBridge):
        return model(tokens)
    return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits


@contextmanager
def edit_streams(model: nn.Module, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Apply edits to the residual stream after layers, at every token, until the context closes."""
    with ExitStack() as stack:
        if isinstance(model, TransformerBridge):
            stack.enter_context(
                model.hooks(
                    fwd_hooks=[
                        (point_name(layer, "resid_post"), as_hook(edit)) for layer, edit in edits.items()
                    ]
                )
            )
        else:
            layers = decoder_layers(model)
            for layer, edit in edits.items():
                stack.callback(layers[layer].register_forward_hook(_on_output(edit)).remove)
        yield


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a bridge or a Hugging Face language model.

    Raises:
        GuardError: if they cannot be told.
    """
    if isinstance(model, TransformerBridge):
        return model.blocks
    inner = _language_model(model)
    n_layers = inner.config.get_text_config().num_hidden_layers
    found = [
        module
        for module in inner.get_decoder().children()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if len(found) != 1:
        raise GuardError(
            f"{type(inner).__name__} has {len(found)} lists of {n_layers} layers in its decoder; expected one. "
            "Train a TransformerBridge of it with revlens.training.finetune instead."
        )
    return found[0]


def shape_of(model: nn.Module) -> tuple[int, int]:
    """Number of layers, and width of the residual stream."""
    if isinstance(model, TransformerBridge):
        return model.cfg.n_layers, model.cfg.d_model
    config = _language_model(model).config.get_text_config()
    return config.num_hidden_layers, config.hidden_size


def tokenizer_of(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer given, or a bridge's own.

    Raises:
        GuardError: if there is neither.
    """
    if tokenizer is not None:
        return tokenizer
    if isinstance(model, TransformerBridge):
        return model.tokenizer
    raise GuardError(f"{type(model).__name__} carries no tokenizer; pass it as tokenizer=.")


def probe_batch(model: nn.Module, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None) -> Batch:
    """User messages in the chat format, padded on the left.

    Raises:
        GuardError: if there is no prompt, or no tokenizer.
        ConfigError: see `revlens.prompts.encode_prompts`.
    """
    if not prompts:
        raise GuardError("No prompts: the guard would do nothing. Give it the guard split of the probes.")
    tokenizer = tokenizer_of(model, tokenizer)
    return pad_left(encode_prompts(tokenizer, prompts), pad_id_of(tokenizer))


def _language_model(model: nn.Module) -> PreTrainedModel:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise GuardError(
            f"A guard needs a TransformerBridge or a Hugging Face model, got a {type(inner).__name__}."
        )
    return inner


def _forward(
    model: nn.Module, batch: Batch, columns: Int[Tensor, " column"]
) -> tuple[Float[Tensor, "prompt pos d_vocab"], bool]:
    """Logits of the prompts, padded on the right; only at ``columns`` if the model can do that, and whether it could.

    Padded on the right, because positions are then those of the prompts alone, in every family.
    """
    device = next(model.parameters()).device
    width = batch.tokens.shape[1]
    order = (torch.arange(width, device=batch.mask.device) - batch.mask.sum(1, keepdim=True)) % width
    tokens, mask = (tensor.gather(1, order).to(device) for tensor in batch)
    is_short = "logits_to_keep" in inspect.signature(type(_language_model(model)).forward).parameters
    extra: dict[str, Any] = {"logits_to_keep": columns.to(device)} if is_short else {}
    return model(input_ids=tokens, attention_mask=mask, use_cache=False, **extra).logits, is_short


def _on_output(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook for a layer, whose output is the stream or a tuple that starts with it."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return edit(output) if isinstance(output, Tensor) else (edit(output[0]), *output[1:])

    return hook


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is as it was."""
    active = [module for module in model.modules() if module.training]
    try:
        for module in active:
            module.training = False
        yield
    finally:
        for module in active:
            module.training = True
