"""The controls of block: penalties along other directions, each matched with block in what it takes away.

At equal weight a direction along which the fine-tune hardly moves costs next to nothing, and its arm is the
baseline whatever block does. So a control's weight is the one at which the baseline's own drift pays as much
along the control as along v_rev.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import read_prompts
from revlens.direction import nulls, unit_vectors
from revlens.experiment.arms.history import arm_history
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import own_v_rev
from revlens.results import Layout
from revlens.training import Block, ProbeMotion


@dataclass(frozen=True)
class ControlInputs:
    """What a control's direction is made from.

    Attributes:
        config: the experiment.
        layout: its files.
        seed: whose fine-tune is controlled.
        motion: of the guard probes along v_rev.
        drift: the baseline's, on these probes after its last update.
    """

    config: ExperimentConfig
    layout: Layout
    seed: int
    motion: ProbeMotion
    drift: Float[Tensor, "layer d_model"]


@dataclass(frozen=True)
class Control:
    """One control arm.

    Attributes:
        name: of its arm.
        summary: what it blocks, for the docs.
        colour: in figures.
        marker: in figures; plotly's name.
        directions: a vector at each layer, of any length and sign.
        free: share of the layers, from the first, at which nothing is blocked, rounded down.
    """

    name: str
    summary: str
    colour: str
    marker: str
    directions: Callable[[ControlInputs], Float[Tensor, "layer d_model"]]
    free: float = 0.0


def matched_block(
    config: ExperimentConfig, layout: Layout, arm: FineTune, aligned: TransformerBridge
) -> Block:
    """The control of block in an arm, at the weight at which the baseline pays as much as for block.

    Signs are such that the baseline drifts forward along the control: backward motion would be free.

    Raises:
        ResultsError: if the baseline of the seed has not been fine-tuned.
    """
    assert arm.control is not None
    assert arm.strength is not None
    control, prompts = CONTROLS[arm.control], config.subject.material().probes()["guard"]
    motion = ProbeMotion.along(own_v_rev(layout, arm.seed), aligned, prompts)
    drift = baseline_drift(config, arm.seed, motion)
    vectors = control.directions(ControlInputs(config, layout, arm.seed, motion, drift))
    blocked = slice(math.floor(control.free * len(motion.layers)), None)
    own, unit = drift[blocked], unit_vectors(vectors.to(drift)[blocked])
    unit = torch.where((own * unit).sum(-1, keepdim=True) < 0, -unit, unit)
    ratio = penalty(drift, motion.unit) / penalty(own, unit)
    along = replace(
        motion,
        start=motion.start[blocked],
        unit=unit,
        gap=motion.gap[blocked],
        layers=motion.layers[blocked],
    )
    return Block(along, arm.strength * float(ratio))


def penalty(drift: Float[Tensor, "layer d_model"], unit: Float[Tensor, "layer d_model"]) -> Float[Tensor, ""]:
    """Block's term at weight 1 for a drift, in squared activation units."""
    return torch.relu((drift * unit).sum(-1)).square().mean()


def baseline_drift(
    config: ExperimentConfig, seed: int, motion: ProbeMotion
) -> Float[Tensor, "layer d_model"]:
    """Drift of a seed's baseline on the probes of a motion, after its last update.

    Raises:
        ResultsError: if it has not been fine-tuned.
    """
    (baseline,) = (arm for arm in config.fine_tunes() if arm.seed == seed and arm.label == "baseline")
    with torch.no_grad():
        return motion.drift(arm_history(config, baseline).steps[-1].load())


def _random(given: ControlInputs) -> Tensor:
    return nulls.isotropic_directions(1, *given.motion.unit.shape, seed=given.seed)[0]


def _orthogonal(given: ControlInputs) -> Tensor:
    along = (given.drift * given.motion.unit).sum(-1, keepdim=True) * given.motion.unit
    return given.drift - along


def _shuffled(given: ControlInputs) -> Tensor:
    start, prompts = given.config.subject.start(given.seed), given.config.subject.material().probes()
    reference, aligned = (read_prompts(checkpoint.load(), prompts["direction"]) for checkpoint in start)
    return nulls.relabelled_directions(reference, aligned, 1, seed=given.seed)[0]


def _foreign(given: ControlInputs) -> Tensor:
    other = given.config.seed_after(given.seed)
    aligned = given.config.subject.start(other).aligned.load()
    prompts = given.config.subject.material().probes()["guard"]
    return baseline_drift(
        given.config, other, ProbeMotion.along(own_v_rev(given.layout, other), aligned, prompts)
    )


def _ranked(given: ControlInputs, rank: int) -> Tensor:
    """A principal axis of reference minus aligned over prompts, beside v_rev; 0 is the widest."""
    start, prompts = given.config.subject.start(given.seed), given.config.subject.material().probes()
    reference, aligned = (read_prompts(checkpoint.load(), prompts["direction"]) for checkpoint in start)
    unit = given.motion.unit.to(reference)
    difference = reference - aligned
    beside = difference - (difference * unit).sum(-1, keepdim=True) * unit
    return torch.linalg.svd(beside.transpose(0, 1), full_matrices=False).Vh[:, rank]


def _specific(given: ControlInputs) -> Tensor:
    start, prompts = given.config.subject.start(given.seed), given.config.subject.material().probes()
    reference, aligned = (
        read_prompts(model, prompts["direction"]).mean(0) - read_prompts(model, prompts["harmless"]).mean(0)
        for model in (checkpoint.load() for checkpoint in start)
    )
    return reference - aligned


#: Every control by the name of its arm.
CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        Control("random", "a direction uniform on the sphere at each layer", "#999999", "circle", _random),
        Control(
            "orthogonal",
            "the baseline's own drift without its part along v_rev",
            "#8C6D31",
            "square",
            _orthogonal,
        ),
        Control(
            "shuffled",
            "v_rev of a shuffled history: reference and aligned swapped on a random half of the prompts",
            "#B39DDB",
            "diamond",
            _shuffled,
        ),
        Control("foreign", "the drift of another seed's baseline", "#80CBC4", "x", _foreign),
        Control(
            "specific",
            "v_rev on harmful prompts minus v_rev on harmless ones: what alignment changed for harm alone",
            "#44AA99",
            "star",
            _specific,
        ),
        Control(
            "second",
            "the widest axis of reference minus aligned over prompts, beside v_rev",
            "#117733",
            "square-open",
            lambda given: _ranked(given, 0),
        ),
        Control(
            "third",
            "the widest axis of it beside v_rev and that one",
            "#999933",
            "diamond-open",
            lambda given: _ranked(given, 1),
        ),
        Control(
            "late",
            "v_rev at the last third of the layers alone",
            "#332288",
            "triangle-up",
            lambda given: given.motion.unit,
            free=2 / 3,
        ),
    )
}
