"""What is no `TransformerBridge`, and what to pass in its place."""

from __future__ import annotations

from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel

from revlens.errors import SiteError

#: Modules that run another one, which has the weights and the hook points: where they keep it.
_AROUND = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
}


def the_bridge(model: object) -> TransformerBridge:
    """The model itself, if it is a bridge whose hooks act.

    A Hugging Face model is not wrapped here: a bridge takes the model's modules over for good, and that is
    for the caller to ask.

    Raises:
        SiteError: if not, naming the call that makes one.
    """
    if isinstance(model, TransformerBridge):
        _check_not_compiled(model)
        return model
    kind = type(model).__name__
    raise SiteError(f"Expected a TransformerBridge, got a {kind}. {_advice(model, kind)}")


def _advice(model: object, kind: str) -> str:
    if kind in _AROUND:
        around = "compiled code does not call hooks that come later" if kind == "OptimizedModule" else "it"
        inner = f"pass the bridge inside, model.{_AROUND[kind]}"
        return (
            f"It is a compiled model, and {around}: {inner}."
            if kind == "OptimizedModule"
            else f"It runs another module: {inner}."
        )
    if not isinstance(model, nn.Module):
        return (
            "Load it: bridge = revlens.history.boot(Path('folder')), or TransformerBridge.boot_transformers."
        )
    if any(isinstance(module, GeneralizedComponent) for module in model.modules()):
        return "A bridge has wrapped it already: pass that bridge, and call either."
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, PreTrainedModel):
        return "Make one of a Hugging Face checkpoint: TransformerBridge.boot_transformers(name)."
    if inner.get_output_embeddings() is None:
        return (
            "It has no language-model head: load it with AutoModelForCausalLM.from_pretrained, "
            "and wrap it: bridge = revlens.history.wrap(model, tokenizer)."
        )
    given = "model" if inner is model else "model.get_base_model()"
    return (
        f"Wrap it: bridge = revlens.history.wrap({given}, tokenizer). The bridge takes over the model's "
        "modules, so that hooks act in calls of either."
    )


def _check_not_compiled(model: TransformerBridge) -> None:
    """Check that no module was compiled in place: its code would not call hooks that come later."""
    for name, module in [("", model), *model.original_model.named_modules()]:
        own_forward = module.__dict__.get("forward")
        if module._compiled_call_impl is not None or hasattr(own_forward, "_torchdynamo_orig_callable"):
            raise SiteError(
                f"{name or type(module).__name__} is compiled (torch.compile), and compiled code does not call "
                "hooks that come later; pass the model as it was before it was compiled."
            )
