"""Forward passes that end where nobody reads on: no later block, no unembedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from revlens.forward.fsdp import is_sharded
from revlens.hooks import check_names


def has_hooks(model: TransformerBridge) -> bool:
    """Whether anything reads or edits the model's activations, or follows its forward passes."""
    return bool(model.original_model._forward_pre_hooks) or any(
        point.fwd_hooks for point in model.hook_dict.values()
    )


def runs_through(model: TransformerBridge) -> bool:
    """Whether a pass has to go on to its end: hooks may wait for later points, and sharded weights are put away there."""
    return has_hooks(model) or is_sharded(model)


def run_until(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    take: Callable[[str, Tensor], None],
    **kwargs: Any,
) -> None:
    """Run a model up to the last of some hook points, and give each activation to ``take`` as it comes.

    A model with other hooks on it runs to its end, and so does a sharded one, see `runs_through`.

    Args:
        model: any bridge.
        tokens: ids, where the model is.
        names: hook points, each of which fires once in a forward pass.
        take: called with the name, as it is spelled in ``names``, and the activation.
        **kwargs: for the bridge's forward, e.g. ``attention_mask``.

    Raises:
        HookNameError: if a name matches no hook point.
    """
    check_names(model, names)
    waiting, stops = set(names), not runs_through(model)

    def taking(name: str) -> Callable[[Tensor, object], None]:
        def hook_function(activation: Tensor, hook: object) -> None:
            take(name, activation)
            waiting.discard(name)
            if stops and not waiting:
                raise StopAtLayerException(activation)  # the bridge's forward catches it

        return hook_function

    with model.hooks(fwd_hooks=[(name, taking(name)) for name in names]):
        model(tokens, **kwargs)
