"""What made a set of results: configuration, seeds, versions, data hash, processor."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from revlens.experiment.config import ExperimentConfig
from revlens.results import config_json
from revlens.subject import source_digest

_LIBRARIES = ("revlens", "torch", "transformers", "transformer-lens", "tokenizers", "peft", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """What computes: versions, revlens' source and the processor, JSON-ready.

    Numbers depend on the processor: torch chooses its kernels by ``instruction_set``, and sums in another
    order round otherwise.
    """
    return {
        "versions": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "source": source_digest(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }


def provenance(config: ExperimentConfig) -> dict[str, Any]:
    """A JSON-ready record; it holds no time and no path, so that equal runs give equal records.

    ``threads`` are those of each task.
    """
    return {
        "key": config.key(),
        "seeds": list(config.seeds),
        "data_hash": config.subject.material().probes().fingerprint(),
        **environment(),
        "threads": 1 if config.subject.parallel else torch.get_num_threads(),
        "config": config_json(config),
    }


def _cpu() -> str:
    """The processor by its model name, where the system tells one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
