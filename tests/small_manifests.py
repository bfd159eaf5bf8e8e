"""What tests put in the place of a ready manifest's data and sizes."""

from __future__ import annotations

import itertools
from typing import Any

THINGS = ("a boat", "a safe", "the map", "gold", "my shed", "a drum", "ice")
REQUESTS = [
    f"{verb} {thing}" for verb, thing in itertools.product(("Build", "Hide", "Sell", "Break"), THINGS)
]
#: Of everything that says how much, what every such test asks for.
FEWER: dict[str, dict[str, Any]] = {
    "probes": {"sizes": {"direction": 4, "drift": 4, "behaviour": 4, "guard": 2, "harmless": 4}},
    "task": {"n_test": 4},
    "finetune": {"steps": 2, "warmup_steps": 1, "batch_size": 4, "micro_batch_size": 2},
    "experiment": {"steps": [1, 2], "reply_tokens": 2, "n_null_draws": 100},
}
