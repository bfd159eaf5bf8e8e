"""Forward passes that stop after the last hook point that is read: no later block, no unembedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from revlens.forward.fsdp import is_sharded
from revlens.hooks import hooked, without_dropout


def must_run_through(model: TransformerBridge) -> bool:
    """Whether a pass must run to its end: hooks may act later, and FSDP frees gathered weights only there."""
    return _has_hooks(model) or is_sharded(model)


def _has_hooks(model: TransformerBridge) -> bool:
    """Whether hooks read or edit the model's activations, or follow its forward passes."""
    return bool(model.original_model._forward_pre_hooks) or any(
        point.fwd_hooks for point in model.hook_dict.values()
    )


def run_until(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    take: Callable[[str, Tensor], None],
    **kwargs: Any,
) -> None:
    """Run a model up to the last of some hook points, and give each activation to ``take`` once computed.

    The pass runs to its end where it must, see `must_run_through`. Dropout is off.

    Args:
        model: any bridge.
        tokens: ids, on the model's device.
        names: hook points, each of which fires once in a forward pass.
        take: called with the name, as ``names`` spells it, and the activation.
        **kwargs: for the bridge's forward, e.g. ``attention_mask``.

    Raises:
        HookNameError: if a name matches no hook point.
    """
    unread, stops = set(names), not must_run_through(model)

    def taking(name: str) -> Callable[[Tensor, object], None]:
        def hook_function(activation: Tensor, hook: object) -> None:
            take(name, activation)
            unread.discard(name)
            if stops and not unread:
                raise StopAtLayerException(activation)  # the bridge's forward catches it

        return hook_function

    with without_dropout(model), hooked(model, [(name, taking(name)) for name in names]):
        model(tokens, **kwargs)
