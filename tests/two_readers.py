"""The work of each process in tests/activations/test_streaming.py, in a module that they can import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard

from families import small_model
from revlens.activations import PositionsOrAll, Sites, read_moments


@dataclass(frozen=True)
class Reading:
    """Everything that a process needs, picklable."""

    prompts: list[str]
    out: Path


#: Positions, and how many of the prompts: with one prompt, the second process has none.
CASES: dict[str, tuple[PositionsOrAll, int]] = {"last": ("last", 9), "all": ("all", 9), "one": ("mean", 1)}
#: With passes of four, the first process makes two and the second one.
BATCH_SIZE = 4


def read(reading: Reading, rank: int) -> None:
    """One of two processes: read its share, and save the moments of all."""
    torch.set_num_threads(1)
    accelerator = Accelerator()
    found: dict[str, torch.Tensor] = {}
    for weights in ("whole", "sharded"):
        model = small_model("llama")
        if weights == "sharded":
            for module in (*model.blocks, model.original_model):
                fully_shard(module)
        for case, (positions, n_prompts) in CASES.items():
            moments = read_moments(
                model,
                reading.prompts[:n_prompts],
                Sites(layers=(0, 1)),  # not the last layer, so that a pass can stop early
                positions,
                covariance=True,
                batch_size=BATCH_SIZE,
                accelerator=accelerator,
            )
            found |= {
                f"{weights} {case} mean": moments.mean,
                f"{weights} {case} scatter": moments.scatter,
                f"{weights} {case} count": torch.tensor(moments.count),
            }
    save_file(found, reading.out / f"{rank}.safetensors")
    accelerator.end_training()
