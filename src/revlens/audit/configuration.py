"""The configuration of an experiment, and the key that ties its output to it and to the code."""

from __future__ import annotations

import json
from collections.abc import Iterator

from revlens.audit.difference import Difference, Verification
from revlens.experiment import ExperimentConfig, key_problem
from revlens.results import Layout, config_json


def compare_configuration(config: ExperimentConfig, layout: Layout) -> Verification:
    """Compare the stored configuration with what revlens writes of it, and the stored key with its own."""
    return Verification(tuple(_differences(config, layout)), {"files": 2})


def _differences(config: ExperimentConfig, layout: Layout) -> Iterator[Difference]:
    if layout.config.read_bytes() != (json.dumps(config_json(config), indent=2) + "\n").encode():
        yield Difference(str(layout.config), "is not as it was written")
    if problem := key_problem(config, layout):
        yield Difference("key", problem)
