"""Guards by name: one record a method, for comparisons in which only the guard differs.

Start, data order, optimizer and schedule are the same for every method. A new one costs its class and a
record here; the study, the figures, the benchmark and the tests read the records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.training.guard import Guard
from revlens.training.model_parts import shape_of
from revlens.training.motion import ProbeMotion
from revlens.training.objectives.adaptive_block import AdaptiveBlock
from revlens.training.objectives.asft import AsFT
from revlens.training.objectives.block import Block, ComplementBlock, Push, RandomDirectionBlock
from revlens.training.objectives.concept_ablation import ConceptAblation
from revlens.training.objectives.constrained_loss import ConstrainedLoss
from revlens.training.objectives.freeze_layers import FreezeLayers
from revlens.training.objectives.gradient_projection import GradientProjection
from revlens.training.objectives.gradient_surgery import GradientSurgery
from revlens.training.objectives.hidden_state_anchor import HiddenStateAnchor
from revlens.training.objectives.kl_anchor import KLAnchor
from revlens.training.objectives.l2sp import L2SP
from revlens.training.objectives.lisa import Lisa
from revlens.training.objectives.preventative_steering import PreventativeSteering
from revlens.training.objectives.rehearsal import Rehearsal
from revlens.training.objectives.resta import RESTA
from revlens.training.objectives.safe_lora import SafeLoRA
from revlens.training.objectives.wise_ft import WiSEFT

#: The paper's arms.
ARMS = ("baseline", "block", "push", "random")

#: What some methods need beside the probes: arguments of `make_guard`, and what to give.
_NEEDS = {
    "refusals": "a dataset of harmful prompts with refusals as answers",
    "reference": "the permissive model, loaded as the aligned one is",
}
_WEIGHT = "weight of the term"


@dataclass(frozen=True)
class GuardInputs:
    """What a method's `Method.make` has at hand: the arguments of `make_guard`."""

    v_rev: ReversionDirection
    aligned: nn.Module
    prompts: Sequence[str]
    strength: float
    seed: int
    refusals: Dataset | None
    reference: nn.Module | None
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def motion(self) -> ProbeMotion:
        """Motion of the guard probes along v_rev."""
        return ProbeMotion.along(self.v_rev, self.aligned, self.prompts, tokenizer=self.tokenizer)


@dataclass(frozen=True)
class Method:
    """A guard by name, and what experiments, figures and documentation say of it.

    Attributes:
        name: how `make_guard`, tables and file names call it.
        summary: what it does, in a sentence.
        source: the paper; empty if there is none.
        strength: what its strength is; None where there is nothing to choose.
        grid: the study's strengths, weak to strong; ``(None,)`` where there is nothing to choose.
        small_grid: some of them, for a first look at a model of your own; empty to leave the method out.
        needs: which of ``refusals`` and ``reference`` `make_guard` must have.
        along_v_rev: whether it acts along v_rev; controls do not.
        colour: in figures. Methods along v_rev are blue (push: orange), controls grey.
        marker: in figures; plotly's name.
        make: makes the guard; None for the baseline, which has none.
    """

    name: str
    summary: str
    source: str
    strength: str | None
    grid: tuple[float | None, ...]
    colour: str
    marker: str
    make: Callable[[GuardInputs], Guard] | None
    small_grid: tuple[float | None, ...] = ()
    needs: frozenset[str] = frozenset()
    along_v_rev: bool = False


def make_guard(
    arm: str,
    v_rev: ReversionDirection,
    aligned: nn.Module,
    prompts: Sequence[str],
    *,
    strength: float | None = None,
    seed: int,
    refusals: Dataset | None = None,
    reference: nn.Module | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Guard | None:
    """The guard of a method; None for the baseline.

    Args:
        arm: a name in `METHODS`.
        v_rev: the reversion direction. Methods along v_rev use it, and act at its layers; random and
            complement do as well, and anchor takes its layers. The others ignore it.
        aligned: the model at step 0, as it will be trained (with its adapter, if it gets one).
        prompts: the guard probes.
        strength: see `Method.strength`.
        seed: draws the random directions, and the order of refusals.
        refusals: for rehearsal and lisa, columns ``prompt`` and ``answer``.
        reference: for safe_lora, asft and resta, the permissive model.
        tokenizer: of a Hugging Face model; a bridge has its own.

    Raises:
        ConfigError: on an unknown name; a strength that is missing, not positive or not taken; or missing
            ``refusals`` or ``reference``. Also see the guards.
    """
    if arm not in METHODS:
        raise ConfigError(f"Unknown arm {arm!r}; expected one of {', '.join(METHODS)}.")
    method = METHODS[arm]
    if method.make is None:
        return None
    if method.strength is None and strength is not None:
        raise ConfigError(f"The arm {arm!r} has no strength; leave out strength={strength}.")
    if method.strength is not None and (strength is None or not strength > 0):
        raise ConfigError(
            f"Guard strength {strength} must be positive ({method.strength}); "
            "use the baseline arm for no guard."
        )
    given = GuardInputs(
        v_rev,
        aligned,
        prompts,
        math.nan if strength is None else float(strength),
        seed,
        refusals,
        reference,
        tokenizer,
    )
    for need in method.needs:
        if getattr(given, need) is None:
            raise ConfigError(f"The arm {arm!r} needs {need}: {_NEEDS[need]}.")
    return method.make(given)


def _rehearsal(given: GuardInputs) -> Rehearsal:
    assert given.refusals is not None, "the method needs them"
    return Rehearsal(given.refusals, given.strength, given.seed, tokenizer=given.tokenizer)


def _lisa(given: GuardInputs) -> Lisa:
    assert given.refusals is not None, "the method needs them"
    return Lisa(given.refusals, given.strength, given.seed, tokenizer=given.tokenizer)


def _safe_lora(given: GuardInputs) -> SafeLoRA:
    assert given.reference is not None, "the method needs it"
    return SafeLoRA.between(given.reference, given.aligned, given.strength)


def _asft(given: GuardInputs) -> AsFT:
    assert given.reference is not None, "the method needs it"
    return AsFT.between(given.reference, given.aligned, given.strength)


def _resta(given: GuardInputs) -> RESTA:
    assert given.reference is not None, "the method needs it"
    return RESTA.between(given.reference, given.aligned, given.strength)


def _freeze(given: GuardInputs) -> FreezeLayers:
    if given.strength > 1:
        raise ConfigError(f"A share of {given.strength} layers cannot be frozen; it must be at most 1.")
    return FreezeLayers(tuple(range(math.ceil(given.strength * shape_of(given.aligned)[0]))))


_METHODS = (
    Method(
        name="baseline",
        summary="the task alone",
        source="",
        strength=None,
        grid=(None,),
        small_grid=(None,),
        colour="#000000",
        marker="star",
        make=None,
    ),
    Method(
        name="block",
        summary="penalty on positive displacement along v_rev, mean over layers",
        source="arXiv 2606.28525",
        strength=_WEIGHT,
        grid=(0.05, 0.5, 5.0, 50.0, 500.0),
        small_grid=(0.5, 5.0, 50.0),
        along_v_rev=True,
        colour="#0072B2",
        marker="circle",
        make=lambda given: Block(given.motion, given.strength),
    ),
    Method(
        name="push",
        summary="the opposite of block, up to a target: for causal claims",
        source="arXiv 2606.28525",
        strength=_WEIGHT,
        grid=(0.5, 5.0),
        along_v_rev=True,
        colour="#D55E00",
        marker="circle",
        make=lambda given: Push(given.motion, given.strength),
    ),
    Method(
        name="random",
        summary="control: block along a random unit direction at each layer",
        source="arXiv 2606.28525",
        strength=_WEIGHT,
        grid=(5.0, 50.0, 500.0),
        small_grid=(5.0, 50.0),
        colour="#999999",
        marker="circle",
        make=lambda given: RandomDirectionBlock.like(given.motion, given.strength, seed=given.seed),
    ),
    Method(
        name="complement",
        summary="control: penalty on all motion of the mean probe activation but that along v_rev",
        source="",
        strength=_WEIGHT,
        grid=(0.005, 0.05, 0.5, 5.0),
        colour="#999999",
        marker="square",
        make=lambda given: ComplementBlock(given.motion, given.strength),
    ),
    Method(
        name="adaptive",
        summary="keeps the reversion fraction of every layer within a budget, by dual ascent",
        source="Nocedal & Wright 2006, Numerical Optimization, section 17.3",
        strength="budget of the reversion fraction",
        grid=(0.2, 0.1, 0.05, 0.02),
        small_grid=(0.1, 0.05, 0.02),
        along_v_rev=True,
        colour="#56B4E9",
        marker="square",
        make=lambda given: AdaptiveBlock(given.motion, given.strength),
    ),
    Method(
        name="projection",
        summary="takes motion along v_rev out of the optimizer's update",
        source="Rosen 1960; Farajtabar et al. 2019, arXiv 1910.07104",
        strength=None,
        grid=(None,),
        small_grid=(None,),
        along_v_rev=True,
        colour="#08306B",
        marker="diamond",
        make=lambda given: GradientProjection(given.motion),
    ),
    Method(
        name="ablation",
        summary="ablates v_rev in the residual stream while the task is learned",
        source="Casademunt et al. 2025, arXiv 2507.16795",
        strength=None,
        grid=(None,),
        along_v_rev=True,
        colour="#7B9FC4",
        marker="triangle-up",
        make=lambda given: ConceptAblation.ablating(given.motion),
    ),
    Method(
        name="clamp",
        summary="holds the coordinate along v_rev at the aligned model's mean, at last prompt tokens, while "
        "the task is learned",
        source="Casademunt et al. 2025, arXiv 2507.16795",
        strength=None,
        grid=(None,),
        along_v_rev=True,
        colour="#7B9FC4",
        marker="triangle-down",
        make=lambda given: ConceptAblation.clamping(given.motion),
    ),
    Method(
        name="steering",
        summary="adds a share of the gap along v_rev to the residual stream while the task is learned",
        source="Chen et al. 2025, arXiv 2507.21509",
        strength="dose: share of the gap from the aligned model to the reference",
        grid=(0.25, 0.5, 1.0, 2.0),
        along_v_rev=True,
        colour="#7B9FC4",
        marker="square",
        make=lambda given: PreventativeSteering.along(given.motion, given.strength),
    ),
    Method(
        name="rehearsal",
        summary="trains on refusals beside the task",
        source="Bianchi et al. 2023, arXiv 2309.07875",
        strength="share of refusals in the loss",
        grid=(0.02, 0.1, 0.3, 0.6),
        small_grid=(0.02, 0.1, 0.3),
        needs=frozenset({"refusals"}),
        colour="#009E73",
        marker="circle",
        make=_rehearsal,
    ),
    Method(
        name="lisa",
        summary="takes turns between refusals and the task, each held near where the other left off",
        source="Huang et al. 2024, arXiv 2405.18641",
        strength="weight of the proximal term",
        grid=(0.01, 0.1, 1.0, 10.0),
        needs=frozenset({"refusals"}),
        colour="#009E73",
        marker="square",
        make=_lisa,
    ),
    Method(
        name="l2sp",
        summary="penalty on the distance of the weights from their start",
        source="Li et al. 2018, arXiv 1802.01483",
        strength=_WEIGHT,
        grid=(0.001, 0.01, 0.1, 1.0),
        small_grid=(0.01, 0.1),
        colour="#E69F00",
        marker="circle",
        make=lambda given: L2SP.at(given.aligned, given.strength),
    ),
    Method(
        name="kl",
        summary="KL divergence from the aligned model's first answer tokens on the probes",
        source="Li & Hoiem 2016, arXiv 1606.09282; Qi et al. 2024, arXiv 2406.05946",
        strength=_WEIGHT,
        grid=(0.01, 0.1, 1.0, 10.0),
        small_grid=(1.0, 10.0),
        colour="#CC79A7",
        marker="circle",
        make=lambda given: KLAnchor.at(
            given.aligned, given.prompts, given.strength, tokenizer=given.tokenizer
        ),
    ),
    Method(
        name="surgery",
        summary="takes out of the task's gradient what conflicts with kl's, and adds kl's",
        source="Yi et al. 2025, arXiv 2508.07172; Yu et al. 2020, arXiv 2001.06782",
        strength="weight of the alignment gradient",
        grid=(0.1, 1.0, 10.0),
        colour="#CC79A7",
        marker="diamond",
        make=lambda given: GradientSurgery(
            KLAnchor.at(given.aligned, given.prompts, 1.0, tokenizer=given.tokenizer), given.strength
        ),
    ),
    Method(
        name="constrained",
        summary="a task's loss that learns the first tokens of answers no further than a little",
        source="Qi et al. 2024, arXiv 2406.05946",
        strength="multiple of the paper's beta",
        grid=(0.3, 1.0, 3.0, 10.0),
        colour="#CC79A7",
        marker="triangle-up",
        make=lambda given: ConstrainedLoss.at(given.aligned, given.strength),
    ),
    Method(
        name="anchor",
        summary="squared distance of every probe's activations from the aligned model's",
        source="Zou et al. 2024, arXiv 2406.04313",
        strength=_WEIGHT,
        grid=(0.001, 0.01, 0.1, 1.0),
        small_grid=(0.01, 0.1),
        colour="#CC79A7",
        marker="square",
        make=lambda given: HiddenStateAnchor.at(
            given.aligned, given.prompts, given.strength, layers=given.v_rev.layers, tokenizer=given.tokenizer
        ),
    ),
    Method(
        name="safe_lora",
        summary="projects weight changes onto what alignment changed, after training",
        source="Hsu et al. 2024, arXiv 2405.16833",
        strength="threshold on the cosine of a weight change with its projection",
        grid=(0.25, 0.3, 0.35, 0.4),
        needs=frozenset({"reference"}),
        colour="#E69F00",
        marker="square",
        make=_safe_lora,
    ),
    Method(
        name="asft",
        summary="penalty on the part of weight changes that lies off what alignment changed",
        source="Yang et al. 2025, arXiv 2506.08473",
        strength=_WEIGHT,
        grid=(0.01, 0.1, 1.0, 10.0),
        needs=frozenset({"reference"}),
        colour="#E69F00",
        marker="triangle-up",
        make=_asft,
    ),
    Method(
        name="resta",
        summary="adds what alignment changed in the weights once more, after training",
        source="Bhardwaj et al. 2024, arXiv 2402.11746",
        strength="multiple of alignment's change that is added",
        grid=(0.1, 0.3, 0.5, 1.0),
        needs=frozenset({"reference"}),
        colour="#E69F00",
        marker="triangle-down",
        make=_resta,
    ),
    Method(
        name="wise_ft",
        summary="interpolates between the trained and the aligned weights, after training",
        source="Wortsman et al. 2022, arXiv 2109.01903",
        strength="share of the aligned weights",
        grid=(0.1, 0.3, 0.5, 0.7),
        colour="#E69F00",
        marker="cross",
        make=lambda given: WiSEFT.at(given.aligned, given.strength),
    ),
    Method(
        name="freeze",
        summary="does not train the first layers",
        source="Li et al. 2024, arXiv 2408.17003",
        strength="share of the layers that is frozen, from the first",
        grid=(0.25, 0.5, 0.75),
        colour="#E69F00",
        marker="diamond",
        make=_freeze,
    ),
)
#: Every method that `make_guard` knows, by name, in the order of tables and figures.
METHODS: Mapping[str, Method] = {method.name: method for method in _METHODS}
