"""Load a history's next checkpoint while the present one is used."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.history import Checkpoint


def each_loaded(
    checkpoints: Sequence[Checkpoint], use: Callable[[Checkpoint, TransformerBridge], None]
) -> None:
    """Load and use checkpoints in their order; a thread loads the next one meanwhile, if memory holds both.

    At most two models are in memory. A checkpoint of another dtype than torch's default does not load
    meanwhile: Hugging Face changes that default while it loads, for all threads.

    Args:
        checkpoints: what to load.
        use: called with each checkpoint and its model, which it must not keep.

    Raises:
        HistoryError: if a checkpoint cannot be loaded; those before it have been used.
    """
    with ThreadPoolExecutor(1) as thread, _quick_collection():
        upcoming: Future[TransformerBridge] | None = None
        for i, checkpoint in enumerate(checkpoints):
            model = checkpoint.load() if upcoming is None else upcoming.result()
            upcoming = None
            following = checkpoints[i + 1 : i + 2]
            if following and following[0].dtype == torch.get_default_dtype() and _fits_twice(model):
                upcoming = thread.submit(following[0].load)
            use(checkpoint, model)
            del model
            gc.collect()  # a bridge refers to itself


@contextmanager
def _quick_collection() -> Iterator[None]:
    """Let garbage collection pass over what is there now, most of it the objects of imported libraries."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _fits_twice(model: TransformerBridge) -> bool:
    """Whether two more models of this size fit in free memory: one, and what loading it needs."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] > 2 * size
    return _free_memory() > 2 * size


def _free_memory() -> int:
    """Bytes of free main memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, macOS not this one
        return 0
