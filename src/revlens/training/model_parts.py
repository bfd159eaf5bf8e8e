"""Layers, shape, tokenizer and tokenized probes of a model in training, bridge or Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peft import PeftModel
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.context import check_context, context_of
from revlens.errors import GuardError, ProbeError
from revlens.hooks import modules_of
from revlens.prompts import Batch, encode_prompts, pad_id_of, pad_left


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a bridge or a Hugging Face language model.

    Raises:
        GuardError: if the model's decoder does not have exactly one list of its layers.
    """
    if isinstance(model, TransformerBridge):
        return model.blocks
    inner = hugging_face_model(model)
    n_layers = inner.config.get_text_config().num_hidden_layers
    found = [
        module
        for module in inner.get_decoder().children()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if len(found) != 1:
        raise GuardError(
            f"{type(inner).__name__} has {len(found)} lists of {n_layers} layers in its decoder; "
            "expected one. Train a TransformerBridge of it with revlens.training.finetune instead."
        )
    return found[0]


def shape_of(model: nn.Module) -> tuple[int, int]:
    """Number of layers, and width of the residual stream.

    Raises:
        GuardError: see `hugging_face_model`.
    """
    if isinstance(model, TransformerBridge):
        return model.cfg.n_layers, model.cfg.d_model
    config = hugging_face_model(model).config.get_text_config()
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
    raise GuardError(f"{type(model).__name__} has no tokenizer; pass it as tokenizer=.")


def probe_batch(
    model: nn.Module,
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    new_tokens: int = 0,
) -> Batch:
    """User messages in the chat format, padded on the left.

    Args:
        model: a bridge or a Hugging Face model.
        prompts: user messages.
        tokenizer: of a Hugging Face model; a bridge has its own.
        new_tokens: how many will follow each.

    Raises:
        ProbeError: if there is no prompt.
        GuardError: if there is no tokenizer.
        ConfigError: see `revlens.prompts.encode_prompts` and `revlens.context.check_context`.
    """
    if not prompts:
        raise ProbeError("No prompts, so the guard would do nothing: give it the guard split of the probes.")
    tokenizer = tokenizer_of(model, tokenizer)
    rows = encode_prompts(tokenizer, prompts)
    check_context(context_of(model), [len(row) for row in rows], prompts, new_tokens=new_tokens)
    return pad_left(rows, pad_id_of(tokenizer))


def hugging_face_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model itself, without an adapter around it.

    Raises:
        GuardError: if it is no Hugging Face model.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise GuardError(
            f"A guard needs a TransformerBridge or a Hugging Face model, got a {type(inner).__name__}."
        )
    return inner


def unembedding(model: nn.Module) -> nn.Module:
    """The module that makes logits of the stream.

    Raises:
        GuardError: if the model has no language-model head, as a classifier or a reward model.
    """
    if isinstance(model, TransformerBridge):
        return model.get_submodule("unembed")
    inner = hugging_face_model(model)
    head = inner.get_output_embeddings()
    if head is None:
        raise GuardError(
            f"{type(inner).__name__} has no language-model head, and this guard needs its logits. Use one "
            "that acts on activations or weights alone, such as block, steering, projection or l2sp."
        )
    return head


@contextmanager
def other_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let passes without gradients use other weights, by parameter name, until the context closes.

    `torch.func.functional_call` does not put a bridge's weights back, whose modules have several names; and
    autocast would take new data of the same parameters for the old.
    """
    by_parameter = {id(model.get_parameter(name)): tensor for name, tensor in weights.items()}
    replaced = [
        (module, key, parameter)
        for module in modules_of(model)
        for key, parameter in module._parameters.items()
        if id(parameter) in by_parameter
    ]
    try:
        for module, key, parameter in replaced:
            module._parameters[key] = nn.Parameter(by_parameter[id(parameter)], requires_grad=False)
        yield
    finally:
        for module, key, parameter in replaced:
            module._parameters[key] = parameter
