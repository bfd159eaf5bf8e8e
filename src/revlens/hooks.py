"""Hook functions on the hook points of a `TransformerBridge`. Knows nothing of histories."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import HookNameError


def check_names(model: TransformerBridge, names: Sequence[str]) -> None:
    """Check that every name is a hook point of the model.

    Raises:
        HookNameError: naming the first unknown hook point and the nearest ones that exist.
    """
    known = model.hook_dict
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise HookNameError(f"No hook point {name!r} on this model; near names: {', '.join(near)}.")


@contextmanager
def record(model: TransformerBridge, names: Sequence[str], select: Callable[[Tensor], Tensor] | None = None) -> Iterator[dict[str, Tensor]]:
    """Record activations at the named hook points while the context is open.

    The yielded dict is refilled by each forward pass. Tensors keep their graph, so that a loss can be built on them;
    run under `torch.no_grad` where none is wanted. The hooks come off on exit, after an exception too.

    Args:
        model: any bridge.
        names: hook points, in TransformerLens names (``blocks.0.hook_resid_post`` or ``blocks.0.hook_out``).
        select: applied to each activation before it is kept, e.g. to take one position; all of it if None.

    Raises:
        HookNameError: if a name matches no hook point.
    """
    check_names(model, names)
    kept: dict[str, Tensor] = {}

    def keep_as(name: str) -> Callable[[Tensor, object], None]:
        # The hook is told its canonical name only; the caller gets back the spelling it asked for.
        def keep(activation: Tensor, hook: object) -> None:
            kept[name] = activation if select is None else select(activation)

        return keep

    with model.hooks(fwd_hooks=[(name, keep_as(name)) for name in names]):
        yield kept
