"""revlens: measure, explain and guard against the reversion of alignment under fine-tuning.

The names below load on first use, so that `import revlens` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revlens import behaviour as behaviour
    from revlens import causal as causal
    from revlens import hooks as hooks
    from revlens.activations import Activations as Activations
    from revlens.activations import Sites as Sites
    from revlens.activations import capture as capture
    from revlens.activations import read_endpoints as read_endpoints
    from revlens.activations import read_moments as read_moments
    from revlens.activations import read_prompts as read_prompts
    from revlens.causal import Openings as Openings
    from revlens.causal import RefusalLogitDifference as RefusalLogitDifference
    from revlens.causal import intervene as intervene
    from revlens.causal import patch_between as patch_between
    from revlens.causal import vocabulary_readout as vocabulary_readout
    from revlens.direction import Drift as Drift
    from revlens.direction import ReversionDirection as ReversionDirection
    from revlens.direction import drift as drift
    from revlens.direction import locate as locate
    from revlens.direction import nulls as nulls
    from revlens.direction import reliability as reliability
    from revlens.history import Checkpoint as Checkpoint
    from revlens.history import TrainingHistory as TrainingHistory
    from revlens.prompts import Probes as Probes
    from revlens.training import Block as Block
    from revlens.training import FinetuneConfig as FinetuneConfig
    from revlens.training import Guard as Guard
    from revlens.training import Monitor as Monitor
    from revlens.training import Push as Push
    from revlens.training import ReversionCallback as ReversionCallback
    from revlens.training import finetune as finetune
    from revlens.training import make_guard as make_guard

_ROOMS = {
    "activations": ("Activations", "Sites", "capture", "read_endpoints", "read_moments", "read_prompts"),
    "causal": ("Openings", "RefusalLogitDifference", "intervene", "patch_between", "vocabulary_readout"),
    "direction": ("Drift", "ReversionDirection", "drift", "locate", "nulls", "reliability"),
    "history": ("Checkpoint", "TrainingHistory"),
    "prompts": ("Probes",),
    "training": (
        "Block",
        "FinetuneConfig",
        "Guard",
        "Monitor",
        "Push",
        "ReversionCallback",
        "finetune",
        "make_guard",
    ),
}
_MODULES = ("behaviour", "causal", "hooks")
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"revlens.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"revlens.{_HOME[name]}"), name)
    raise AttributeError(f"module 'revlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOME, *_MODULES])
