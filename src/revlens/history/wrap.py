"""A Hugging Face model in memory, wrapped as a bridge."""

from __future__ import annotations

import copy
import re

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError
from revlens.history.fused import fused_projections


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """Wrap a model, with its adapter if it has one, as a bridge in evaluation mode; what requires gradients stays as it is.

    Args:
        model: taken over: its modules are replaced by the bridge's.
        tokenizer: is copied: a bridge sets special tokens on its own, and `save` writes this one.

    Raises:
        HistoryError: if an adapter's layer would be passed by.
    """
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    model.config.architectures = [type(model).__name__]  # boot_transformers picks the family by it
    if not model.config.name_or_path:
        model.config.name_or_path = type(model).__name__
    bridge = TransformerBridge.boot_transformers(
        model.config.name_or_path,
        hf_model=model,
        tokenizer=copy.deepcopy(tokenizer),
        dtype=model.dtype,
        device=model.device,
    )
    bridge.eval()
    bridge.tokenizer_as_given = tokenizer
    template = tokenizer.chat_template
    if tokenizer.bos_token is None and isinstance(template, str) and "bos_token" in template:
        # The bridge takes EOS for a missing BOS; in Hugging Face the template writes nothing there.
        bridge.tokenizer.chat_template = "{% set bos_token = '' %}" + template
    if has_adapter(model):
        for fused in fused_projections(model):
            if isinstance(fused.module, BaseTunerLayer):
                fused.reconnect()
        for parameter in bridge.parameters():  # the bridge split fused weights into new parameters
            parameter.requires_grad_(id(parameter) in trainable)
        _check_adapter_is_live(bridge)
    return bridge


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether peft has put an adapter into the model."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


@torch.no_grad()
def _check_adapter_is_live(bridge: TransformerBridge) -> None:
    """Run two tokens and see that the adapter's layers were called."""
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
    # By kind: of the experts of a mixture, two tokens visit only some.
    kinds = {name: re.sub(r"\d+", "*", name) for name in layers}
    dead = set(kinds.values()) - {kinds[name] for name, module in layers.items() if module in called}
    if dead:
        raise HistoryError(
            f"The bridge of {type(model).__name__} does not compute with the adapter's layers {', '.join(sorted(dead))}. "
            "Leave them out of target_modules, or merge the adapter into its base (peft's merge_and_unload) and load the result."
        )
