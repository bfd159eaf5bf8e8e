"""Models whose weights FSDP2 (torch's `fully_shard`) shares out over processes, which gather them layer by layer, all at once."""

from __future__ import annotations

from collections.abc import Iterator

from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from transformer_lens.model_bridge import TransformerBridge


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was applied to the model or a part of it. Every process then has to make the same passes."""
    return any(True for _ in _shards(model))


def reshard(model: nn.Module) -> None:
    """Let go of weights that a pass without a backward pass has left gathered, so that parameters are those that the optimizer has."""
    for module in _shards(model):
        module.reshard()


def _shards(model: nn.Module) -> Iterator[FSDPModule]:
    """Modules whose weights are sharded. This is asked at every pass, so one process by itself, which has none, does not look."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # A bridge's modules are all among those of the model that it wraps, which is not among the bridge's.
    whole = model.original_model if isinstance(model, TransformerBridge) else model
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            yield module
