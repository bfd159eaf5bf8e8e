"""What made a set of results: configuration, seeds, versions, data hash."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from revlens.experiment.config import ExperimentConfig
from revlens.organism import World, source_digest

_LIBRARIES = ("revlens", "torch", "transformers", "transformer-lens", "tokenizers", "numpy", "scipy")


def provenance(config: ExperimentConfig) -> dict[str, Any]:
    """A JSON-ready record; it holds no time and no path, so that equal runs give equal records."""
    return {
        "key": config.key(),
        "seeds": list(config.seeds),
        "data_hash": World(config.organism.world).probes().probes.fingerprint(),
        "versions": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "source": source_digest(),
        "machine": platform.machine(),
        "config": asdict(config),
    }
