"""Residual streams and logits of a model in training: a bridge or a Hugging Face model.

A Trainer trains a Hugging Face model. To boot a bridge from it would replace its modules and change the names
that it is saved under, so torch's own hooks on the decoder layers read and edit its streams.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_batch
from revlens.errors import GuardError
from revlens.hooks import Edit, as_hook, hooked, modules_of, point_name, without_dropout
from revlens.prompts import Batch
from revlens.training.model_parts import decoder_layers, hugging_face_model, unembedding
from revlens.training.precision import weights_precision

#: Says which tokens of the forward pass that starts are meant.
ChooseTokens = Callable[[], Bool[Tensor, "batch pos"]]


def read_streams(
    model: nn.Module, batch: Batch, layers: tuple[int, ...]
) -> Float[Tensor, "prompt layer d_model"]:
    """The residual stream after each layer at the last prompt token, with a gradient unless under no_grad.

    Dropout is off, as its noise would look like motion, and so is autocast, as its rounding would.

    Args:
        model: a bridge or a Hugging Face model.
        batch: left-padded prompts.
        layers: increasing layer indices.
    """
    with without_dropout(model), weights_precision(model):
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
    """Logits at the last tokens of each row, with a gradient unless under no_grad.

    Dropout and autocast are off.

    Args:
        model: a bridge or a Hugging Face model.
        batch: left-padded rows of at least ``last`` tokens.
        last: how many tokens.
    """
    with without_dropout(model), weights_precision(model):
        if isinstance(model, TransformerBridge):
            device = next(model.parameters()).device
            return model(batch.tokens.to(device), attention_mask=batch.mask.to(device))[:, -last:]
        unembedding(model)  # checks that there is one
        wanted = batch.mask.sum(1, keepdim=True) - last + torch.arange(last, device=batch.mask.device)
        # The unembedding costs much, so it runs on the columns that some row needs.
        columns, position = wanted.unique(return_inverse=True)
        logits, is_short = _forward(model, batch, columns)
        index = (position if is_short else wanted).to(logits.device)
        return logits[torch.arange(len(index), device=logits.device)[:, None], index]


def require_gradient(activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The activations themselves.

    Raises:
        GuardError: if they have no gradient.
    """
    if not activations.requires_grad:
        raise GuardError(
            "The probe activations have no gradient, so the guard cannot act: "
            "is the model frozen or under no_grad?"
        )
    return activations


def logits_of(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of right-padded tokens at every position; causal attention ignores the padding."""
    if isinstance(model, TransformerBridge):
        return model(tokens)
    unembedding(model)  # checks that there is one
    return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits


@contextmanager
def edit_streams(
    model: nn.Module, edits: Mapping[int, Edit], *, tokens: ChooseTokens | None = None
) -> Iterator[None]:
    """Apply edits to the residual stream after layers, until the context closes.

    They are computed without autocast. A pass under other adapters than are active now, or under none, is not
    edited: preference training runs its reference model so.

    Args:
        model: a bridge or a Hugging Face model.
        edits: by layer.
        tokens: says at the start of each pass which of its tokens are edited; every token if None.

    Raises:
        GuardError: in a pass, if it reads a batch of another shape than ``tokens`` gives.
    """
    edits = {layer: _without_autocast(edit) for layer, edit in edits.items()}
    is_edited = _same_adapters_as_now(model)
    with ExitStack() as stack:
        if tokens is not None:
            chosen = _Chosen(tokens)
            edits = {layer: chosen.restrict(edit) for layer, edit in edits.items()}
            # peft calls the inner model's forward method, past that model's hooks; the decoder's hooks run.
            top = model if isinstance(model, TransformerBridge) else hugging_face_model(model).get_decoder()
            hook = top.register_forward_pre_hook(lambda *_: chosen.choose() if is_edited() else None)
            stack.callback(hook.remove)
        edits = {layer: _while(is_edited, edit) for layer, edit in edits.items()}
        if isinstance(model, TransformerBridge):
            stack.enter_context(
                hooked(
                    model,
                    [(point_name(layer, "resid_post"), as_hook(edit)) for layer, edit in edits.items()],
                )
            )
        else:
            layers = decoder_layers(model)
            for layer, edit in edits.items():
                stack.callback(layers[layer].register_forward_hook(_on_output(edit)).remove)
        yield


def _forward(
    model: nn.Module, batch: Batch, columns: Int[Tensor, " column"]
) -> tuple[Float[Tensor, "prompt pos d_vocab"], bool]:
    """Logits of the prompts, padded on the right, and whether only at ``columns``, as some models can do.

    With padding on the right, positions are those of the prompts alone in every family.
    """
    device = next(model.parameters()).device
    width = batch.tokens.shape[1]
    order = (torch.arange(width, device=batch.mask.device) - batch.mask.sum(1, keepdim=True)) % width
    tokens, mask = (tensor.gather(1, order).to(device) for tensor in batch)
    is_short = "logits_to_keep" in inspect.signature(type(hugging_face_model(model)).forward).parameters
    extra: dict[str, Any] = {"logits_to_keep": columns.to(device)} if is_short else {}
    return model(input_ids=tokens, attention_mask=mask, use_cache=False, **extra).logits, is_short


def _without_autocast(edit: Edit) -> Edit:
    def edited(stream: Tensor) -> Tensor:
        with torch.autocast(stream.device.type, enabled=False):
            return edit(stream)

    return edited


class _Chosen:
    """The tokens of the pass under way at which edits act.

    They stay until the next pass starts, as checkpointed layers may run again in the backward pass.
    """

    def __init__(self, choose: ChooseTokens) -> None:
        self._choose = choose
        self._mask: Bool[Tensor, "batch pos"] | None = None

    def choose(self) -> None:
        self._mask = None  # if choosing fails, the pass before does not speak for this one
        self._mask = self._choose()

    def restrict(self, edit: Edit) -> Edit:
        """The edit at these tokens, and every other token as it is."""

        def edited(stream: Tensor) -> Tensor:
            here, labelled = tuple(stream.shape[:2]), None if self._mask is None else tuple(self._mask.shape)
            if self._mask is None or here != labelled:
                raise GuardError(
                    f"A layer reads {here} (batch x tokens), but labels of shape {labelled} say which tokens "
                    "to edit. Pass the batch through the model whole and as labelled: no virtual tokens of "
                    "prompt tuning (LoRA adds none), no torch.nn.DataParallel (launch a process per GPU)."
                )
            return torch.where(self._mask.to(stream.device)[..., None], edit(stream), stream)

        return edited


def _same_adapters_as_now(model: nn.Module) -> Callable[[], bool]:
    """A function that says later whether the same adapters are still active; always true without adapters."""
    # All layers of an adapter are switched together, so the first says which is active.
    adapted = next((module for module in modules_of(model) if isinstance(module, BaseTunerLayer)), None)

    def active() -> list[str]:
        return [] if adapted is None or adapted.disable_adapters else list(adapted.active_adapters)

    names = active()
    return lambda: active() == names


def _while(is_edited: Callable[[], bool], edit: Edit) -> Edit:
    return lambda stream: edit(stream) if is_edited() else stream


def _on_output(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook for a layer, which returns the stream or a tuple that starts with it."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return edit(output) if isinstance(output, Tensor) else (edit(output[0]), *output[1:])

    return hook
