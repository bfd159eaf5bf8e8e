"""Processes that were launched together."""

from __future__ import annotations

import os


def n_launched() -> int:
    """Number of processes that ``accelerate launch`` or ``torchrun`` started together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))
