"""What made a set of results: configuration, seeds, versions, data hash."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from revlens.experiment.config import ExperimentConfig
from revlens.results import config_json
from revlens.subject import source_digest

_LIBRARIES = ("revlens", "torch", "transformers", "transformer-lens", "tokenizers", "peft", "numpy", "scipy")


def provenance(config: ExperimentConfig) -> dict[str, Any]:
    """A JSON-ready record; it holds no time and no path, so that equal runs give equal records."""
    return {
        "key": config.key(),
        "seeds": list(config.seeds),
        "data_hash": config.subject.material().probes().fingerprint(),
        "versions": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "source": source_digest(),
        "machine": platform.machine(),
        "config": config_json(config),
    }
