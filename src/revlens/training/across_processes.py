"""One update by several processes: each takes some rows of the batch, and all end with equal weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, distributed, nn

from revlens.errors import ConfigError
from revlens.forward import is_sharded
from revlens.storage import n_launched
from revlens.training.chat_data import ChatBatch
from revlens.training.guard import Guard, trained_parameters

#: Kinds of launch under which every process holds all weights and gradients.
_REPLICATED = (
    DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU, DistributedType.MULTI_XPU,
)  # fmt: skip
#: About how many elements one message holds.
_BUCKET = 2**25


def check_replicated(accelerator: Accelerator, model: nn.Module) -> None:
    """Refuse sharded weights or gradients, and processes of one launch that would each train alone.

    Raises:
        ConfigError: under FSDP, DeepSpeed, Megatron or the like; or if accelerate sees fewer processes than
            were launched.
    """
    if accelerator.num_processes < n_launched():
        raise ConfigError(
            f"accelerate sees {accelerator.num_processes} of the {n_launched()} processes that were "
            "launched. On a machine without GPUs, set ACCELERATE_USE_CPU=true in their environment."
        )
    if accelerator.distributed_type not in _REPLICATED or is_sharded(model):
        sharding = "fully_shard" if is_sharded(model) else accelerator.distributed_type.value
        raise ConfigError(
            f"finetune needs all weights in every process; {sharding} shards them. Launch with --multi_gpu, "
            "and train an adapter if the optimizer's state does not fit; or train the Hugging Face model in "
            "a Trainer with FSDP2 and a ReversionCallback."
        )


def rows_of_process(batch: ChatBatch, process: int, n_processes: int) -> ChatBatch:
    """A process's share of a batch's rows, about as many as the others take, padded like the whole batch.

    Raises:
        ConfigError: if there are fewer rows than processes.
    """
    rows = len(batch.tokens)
    if rows < n_processes:
        raise ConfigError(
            f"batch_size={rows} is less than the {n_processes} processes; give each at least one row."
        )
    start, end = (rows * i // n_processes for i in (process, process + 1))
    return ChatBatch(*(tensor[start:end] for tensor in batch))


@torch.no_grad()
def check_same_start(trained: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Compare the weights of all processes with those of the first.

    Raises:
        ConfigError: in every process, if they differ in any.
    """
    if accelerator.num_processes == 1:
        return
    differ = 0.0
    for bucket in _buckets(trained):
        own = torch.cat([tensor.flatten() for tensor in bucket])
        first = own.clone()
        distributed.broadcast(first, src=0)
        differ += not own.equal(first)
    if sum_over_processes([differ], accelerator)[0]:
        raise ConfigError(
            "Processes start from different weights. "
            "Draw new ones, such as an adapter's, with the same seed in all of them."
        )


def sum_over_processes(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Each value, summed over processes."""
    if accelerator.num_processes == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    distributed.all_reduce(tensor)
    return tensor.tolist()


@torch.no_grad()
def sum_gradients(trained: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Replace every gradient by its sum over processes; a parameter without one in any process keeps none."""
    if accelerator.num_processes == 1:
        return
    # An expert to which no token of these rows goes has a gradient in other processes only.
    has_gradient = torch.tensor(
        [parameter.grad is not None for parameter in trained], dtype=torch.float32, device=accelerator.device
    )
    distributed.all_reduce(has_gradient)
    gradients: list[Tensor] = []
    for parameter, n in zip(trained, has_gradient.tolist(), strict=True):
        if n:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    _in_buckets(gradients, distributed.all_reduce)


@torch.no_grad()
def broadcast_trained(model: nn.Module, guard: Guard, moment: str) -> None:
    """After a guard has changed weights, give every process the first's: devices may round differently.

    Args:
        model: its trained parameters are broadcast.
        guard: nothing happens unless it acts at this moment, see `Guard.acts_at`.
        moment: ``after_update`` or ``end``.
    """
    if distributed.is_available() and distributed.is_initialized() and guard.acts_at(moment):
        _in_buckets(list(trained_parameters(model).values()), lambda flat: distributed.broadcast(flat, src=0))


def _in_buckets(tensors: Sequence[Tensor], collective: Callable[[Tensor], object]) -> None:
    """Change tensors in place by a collective operation, many in one message."""
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        collective(flat)
        for tensor, changed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(changed.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype, up to about `_BUCKET` elements."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(other.numel() for other in bucket) > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
