"""Names of hook points."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import HookNameError


def point_name(layer: int, component: str) -> str:
    """TransformerLens' name of a block's hook point, e.g. ``blocks.3.hook_resid_post``."""
    return f"blocks.{layer}.hook_{component}"


def check_names(model: TransformerBridge, names: Iterable[str]) -> None:
    """Check that every name is a hook point of the model.

    Raises:
        HookNameError: naming the first unknown hook point and the nearest ones that exist.
    """
    known = model.hook_dict
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise HookNameError(f"No hook point {name!r} on this model; near names: {', '.join(near)}.")


def hooked(
    model: TransformerBridge, functions: Iterable[tuple[str, Callable[[Tensor, Any], Tensor | None]]]
) -> AbstractContextManager[object]:
    """Attach hook functions by hook point name, each once, until the context closes.

    Aliases are resolved to a point's own name: under an alias, a bridge in compatibility mode would call a
    function twice.

    Raises:
        HookNameError: see `check_names`.
    """
    functions = list(functions)
    check_names(model, [name for name, _ in functions])
    points = model.hook_dict
    own = [(points[name].name or name, function) for name, function in functions]
    context: AbstractContextManager[object] = model.hooks(fwd_hooks=own)
    return context
