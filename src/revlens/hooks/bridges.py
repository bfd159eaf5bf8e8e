"""Check that a model is a `TransformerBridge`; errors say what to pass instead."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel

from revlens.errors import ModelError

#: Modules that run another one, which has the weights and the hook points: where they keep it.
_AROUND = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


def the_bridge(model: object, *, hooked: bool = True) -> TransformerBridge:
    """The model itself, if it is a bridge; every function that takes a bridge checks it here.

    A Hugging Face model is not wrapped here: a bridge takes over its modules for good, so the caller must ask
    for one.

    Args:
        model: what the caller was given.
        hooked: whether hooks will be attached, which compiled code does not call.

    Raises:
        ModelError: if it is no bridge, naming the call that makes one, or is compiled and hooks must act.
    """
    if not isinstance(model, TransformerBridge):
        raise ModelError(f"Expected a TransformerBridge, got a {type(model).__name__}. {_advice(model)}")
    if hooked:
        _check_not_compiled(model)
    return model


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module once, as `torch.nn.Module.modules` has them of a Hugging Face model.

    Of a bridge these are also modules of the model inside that no component wraps, such as GPT-2's dropout of
    embeddings: the bridge's own ``modules`` lacks them, though its ``named_parameters`` has their weights.
    """
    roots = [model, model.original_model] if isinstance(model, TransformerBridge) else [model]
    seen: set[nn.Module] = set()  # what one root has visited, the other passes by
    return [module for root in roots for _, module in root.named_modules(seen)]


def check_wrappable(model: nn.Module) -> None:
    """Check that a bridge can take over a Hugging Face model.

    Raises:
        ModelError: if the model has no language-model head, is no Hugging Face model or has a bridge already.
    """
    wrapped = any(isinstance(module, GeneralizedComponent) for module in model.modules())
    if wrapped or not isinstance(model, PreTrainedModel) or _is_headless(model):
        kind = type(model).__name__
        raise ModelError(f"Expected a Hugging Face language model to wrap, got a {kind}. {_advice(model)}")


def _is_headless(model: PreTrainedModel) -> bool:
    return model.base_model is model and model.get_output_embeddings() is None


def _advice(model: Any) -> str:
    kind = type(model).__name__
    if kind in _AROUND:
        what = (
            "is compiled, and compiled code calls no hooks" if kind == "OptimizedModule" else "runs a model"
        )
        return f"It {what}; pass the one inside it: model.{_AROUND[kind]}."
    if not isinstance(model, nn.Module):
        return "Load one: revlens.history.boot(Path(folder)), or TransformerBridge.boot_transformers(name)."
    if any(isinstance(module, GeneralizedComponent) for module in model.modules()):
        return "A bridge has wrapped it already; pass that bridge, whose hooks act in calls of either."
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        return "Make one of a Hugging Face model: TransformerBridge.boot_transformers(name)."
    if _is_headless(inner):
        return (
            "It has no language-model head. Load it with AutoModelForCausalLM.from_pretrained, and wrap "
            "that: bridge = revlens.history.wrap(model, tokenizer)."
        )
    given = "model" if inner is model else "model.get_base_model()"
    return (
        f"Wrap it: bridge = revlens.history.wrap({given}, tokenizer). The bridge takes over the model's "
        "modules, so that hooks act in calls of either."
    )


def _check_not_compiled(model: TransformerBridge) -> None:
    """Check that nothing was compiled in place: its code would not call hooks that come later."""
    for name, module in [("The bridge", model), *model.original_model.named_modules()]:
        forward = module.__dict__.get("forward")
        if module._compiled_call_impl is not None or hasattr(forward, "_torchdynamo_orig_callable"):
            raise ModelError(
                f"{name or type(module).__name__} is compiled (torch.compile), and compiled code calls no "
                "hooks; pass the model as it was before."
            )
