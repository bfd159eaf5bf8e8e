"""A Hugging Face model in memory, wrapped as a bridge."""

from __future__ import annotations

import copy
import os
import re

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError
from revlens.history.fused import fused_projections
from revlens.history.peft_layers import has_adapter
from revlens.hooks import check_wrappable


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """A bridge of a model and its adapter, if it has one, in evaluation mode.

    Its parameters require gradients as the model's did. Only the copies into which a bridge splits a fused
    weight (queries, keys and values of GPT-2, say) always do, unless the model has an adapter.

    Args:
        model: becomes the bridge's, which replaces its modules.
        tokenizer: is copied, because a bridge sets special tokens; `save` writes this one.

    Raises:
        ModelError: see `revlens.hooks.check_wrappable`.
        HistoryError: if the bridge does not compute with a layer of the adapter.
    """
    check_wrappable(model)
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    model.config.architectures = [type(model).__name__]  # boot_transformers picks the family by it
    if not model.config.name_or_path:
        model.config.name_or_path = type(model).__name__
    own = copy.deepcopy(tokenizer)
    if not os.path.isdir(own.name_or_path):  # boot_transformers would look for it on the hub
        own.init_kwargs["add_bos_token"] = True
    bridge = TransformerBridge.boot_transformers(
        model.config.name_or_path,
        hf_model=model,
        tokenizer=own,
        dtype=model.dtype,
        device=model.device,
    )
    bridge.eval()
    bridge.tokenizer_as_given = tokenizer
    if tokenizer.bos_token is None:
        write_no_bos(bridge.tokenizer)
    if has_adapter(model):
        for fused in fused_projections(model):
            if isinstance(fused.module, BaseTunerLayer):
                fused.reconnect()
        for parameter in bridge.parameters():  # the bridge split fused weights into new parameters
            parameter.requires_grad_(id(parameter) in trainable)
        _check_adapter_is_live(bridge)
    return bridge


def write_no_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the chat template write nothing for the BOS that the tokenizer lacks, as Hugging Face does.

    A bridge takes EOS for a missing BOS.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and "bos_token" in template:
        tokenizer.chat_template = "{% set bos_token = '' %}" + template


@torch.no_grad()
def _check_adapter_is_live(bridge: TransformerBridge) -> None:
    """Check in a forward pass over two tokens that the adapter's layers are called."""
    model = bridge.original_model
    layers = {
        name: model.get_submodule(name)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    called: set[torch.nn.Module] = set()
    handles = [
        module.register_forward_hook(lambda module, args, output: called.add(module))
        for module in layers.values()
    ]
    try:
        bridge(torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    # Compared by kind: two tokens visit only some of the experts of a mixture.
    kinds = {name: re.sub(r"\d+", "*", name) for name in layers}
    dead = set(kinds.values()) - {kinds[name] for name, module in layers.items() if module in called}
    if dead:
        raise HistoryError(
            f"The bridge of {type(model).__name__} does not compute with the adapter's layers "
            f"{', '.join(sorted(dead))}. Leave them out of target_modules, or merge the adapter into its "
            "base (peft's merge_and_unload) and load the result."
        )
