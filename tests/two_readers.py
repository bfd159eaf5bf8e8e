"""What each of two processes does in tests/activations/test_streaming.py: in a module of its own, so that they can import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from families import small_model
from revlens.activations import MomentPositions, read_moments


@dataclass(frozen=True)
class Reading:
    """Everything that a process needs, picklable."""

    prompts: list[str]
    out: Path


#: Positions, and how many of the prompts: with one prompt, the second process has none.
CASES: dict[str, tuple[MomentPositions, int]] = {"last": ("last", 9), "all": ("all", 9), "one": ("mean", 1)}


def read(reading: Reading, rank: int) -> None:
    """One of two processes: read its share, and save the moments of all."""
    torch.set_num_threads(1)
    model, accelerator = small_model("llama"), Accelerator()
    found: dict[str, torch.Tensor] = {}
    for case, (positions, n_prompts) in CASES.items():
        moments = read_moments(model, reading.prompts[:n_prompts], None, positions, covariance=True, accelerator=accelerator)
        found |= {f"{case} mean": moments.mean, f"{case} scatter": moments.scatter, f"{case} count": torch.tensor(moments.count)}
    save_file(found, reading.out / f"{rank}.safetensors")
    accelerator.end_training()
