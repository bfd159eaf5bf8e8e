"""The stage that locates v_rev between other checkpoints than a seed's own reference and aligned model."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from revlens.activations import read_prompts
from revlens.direction import ReversionDirection
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.guarded import own_v_rev
from revlens.experiment.units import OtherDirection, Tick
from revlens.results import Layout
from revlens.storage import listed_file


def work(config: ExperimentConfig, layout: Layout, other: OtherDirection, tick: Tick) -> None:
    """Locate it, unless it is there."""
    path = layout.other_v_rev(other.seed, other.source)
    if not path.is_file():
        located = _locate(config, layout, other)
        with listed_file(path) as partial:
            located.save(partial)
    tick()


def _locate(config: ExperimentConfig, layout: Layout, other: OtherDirection) -> ReversionDirection:
    subject, seed = config.subject, other.seed
    if other.source == "other-seed":
        return own_v_rev(layout, config.seed_after(seed))
    prompts = subject.material().probes()["direction"]
    own, halved = subject.start(seed), subject.halved(other.source).start(seed)
    pair = {
        "early-reference": (halved.reference, own.aligned),
        "other-alignment": (own.reference, halved.aligned),
    }[other.source]
    activations: Sequence[Float[Tensor, "prompt layer d_model"]] = [
        read_prompts(checkpoint.load(), prompts) for checkpoint in pair
    ]
    return ReversionDirection.fit(*activations, split="direction")


def n_ticks(config: ExperimentConfig, other: OtherDirection) -> int:
    """One for each direction."""
    return 1
