"""Models whose weights FSDP2 (torch's `fully_shard`) splits over processes, and gathers layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from transformer_lens.model_bridge import TransformerBridge


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was applied to the model or a part; all processes then make the same passes."""
    return any(True for _ in _sharded_modules(model))


def reshard(model: nn.Module) -> None:
    """Free the weights that a pass without a backward pass leaves gathered.

    The model's parameters are then the shards again, which the optimizer holds.
    """
    for module in _sharded_modules(model):
        module.reshard()


def _sharded_modules(model: nn.Module) -> Iterator[FSDPModule]:
    # Every pass asks this; a single process has no shards, so it need not walk the modules.
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # The wrapped model is no submodule of its bridge, but has all of the bridge's modules.
    whole = model.original_model if isinstance(model, TransformerBridge) else model
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            yield module
