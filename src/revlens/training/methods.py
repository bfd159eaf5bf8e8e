"""Guards by name, for optimizer-matched comparisons: same start, data order, optimizer and schedule; only the guard differs."""

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
from revlens.training.motion import ProbeMotion
from revlens.training.objectives import (
    L2SP,
    AdaptiveBlock,
    Block,
    ComplementBlock,
    ConceptAblation,
    FreezeLayers,
    GradientProjection,
    HiddenStateAnchor,
    KLAnchor,
    Push,
    RandomDirectionBlock,
    Rehearsal,
    SafeLoRA,
)
from revlens.training.streams import shape_of

#: The paper's arms. baseline: the task alone; block, push: along v_rev; random: block along random unit directions.
ARMS = ("baseline", "block", "push", "random")

#: Every arm that `make_guard` knows, with what its strength is; None where there is nothing to choose.
METHODS: Mapping[str, str | None] = {
    "baseline": None,
    "block": "weight of the term",
    "push": "weight of the term",
    "random": "weight of the term",
    "complement": "weight of the term",
    "adaptive": "budget of the reversion fraction",
    "projection": None,
    "ablation": None,
    "clamp": None,
    "rehearsal": "share of refusals in the loss",
    "l2sp": "weight of the term",
    "kl": "weight of the term",
    "anchor": "weight of the term",
    "safe_lora": "threshold on the cosine of a weight change with its projection",
    "freeze": "share of the layers that is frozen, from the first",
}


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
    """The guard of an arm; None for the baseline.

    Args:
        arm: one of `METHODS`.
        v_rev: the reversion direction; its layers are those that are guarded. rehearsal, l2sp, kl, safe_lora and freeze do
            not use it.
        aligned: the model at step 0, as it will be trained (with its adapter, if it gets one).
        prompts: the guard probes.
        strength: the arm's one setting, see `METHODS`.
        seed: draws the random directions, and the order of refusals.
        refusals: for rehearsal, columns ``prompt`` and ``answer``.
        reference: for safe_lora, the permissive model.
        tokenizer: of a Hugging Face model; a bridge has its own.

    Raises:
        ConfigError: on an unknown arm, a strength that is missing, not positive or of no use, or missing ``refusals`` or
            ``reference``; also see the objectives.
    """
    if arm not in METHODS:
        raise ConfigError(f"Unknown arm {arm!r}; expected one of {', '.join(METHODS)}.")
    if arm == "baseline":
        return None
    if METHODS[arm] is None and strength is not None:
        raise ConfigError(f"The arm {arm!r} has no strength; leave out strength={strength}.")
    if METHODS[arm] is not None and (strength is None or not strength > 0):
        raise ConfigError(
            f"Guard strength {strength} must be positive ({METHODS[arm]}); use the baseline arm for no guard."
        )
    given = _Given(
        v_rev,
        aligned,
        prompts,
        math.nan if strength is None else float(strength),
        seed,
        refusals,
        reference,
        tokenizer,
    )
    return _MAKERS[arm](given)


@dataclass(frozen=True)
class _Given:
    """The arguments of `make_guard`, and what several arms make of them."""

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
        return ProbeMotion.along(self.v_rev, self.aligned, self.prompts, tokenizer=self.tokenizer)


def _rehearsal(given: _Given) -> Rehearsal:
    if given.refusals is None:
        raise ConfigError(
            "The arm 'rehearsal' needs refusals: a dataset of harmful prompts with refusals as answers."
        )
    return Rehearsal(given.refusals, given.strength, given.seed, tokenizer=given.tokenizer)


def _safe_lora(given: _Given) -> SafeLoRA:
    if given.reference is None:
        raise ConfigError(
            "The arm 'safe_lora' needs reference: the permissive model, loaded as the aligned one is."
        )
    return SafeLoRA.between(given.reference, given.aligned, given.strength)


def _freeze(given: _Given) -> FreezeLayers:
    if given.strength > 1:
        raise ConfigError(f"A share of {given.strength} layers cannot be frozen; it must be at most 1.")
    return FreezeLayers(tuple(range(math.ceil(given.strength * shape_of(given.aligned)[0]))))


_MAKERS: Mapping[str, Callable[[_Given], Guard]] = {
    "block": lambda given: Block(given.motion, given.strength),
    "push": lambda given: Push(given.motion, given.strength),
    "random": lambda given: RandomDirectionBlock.like(given.motion, given.strength, seed=given.seed),
    "complement": lambda given: ComplementBlock(given.motion, given.strength),
    "adaptive": lambda given: AdaptiveBlock(given.motion, given.strength),
    "projection": lambda given: GradientProjection(given.motion),
    "ablation": lambda given: ConceptAblation.ablating(given.motion),
    "clamp": lambda given: ConceptAblation.clamping(given.motion),
    "rehearsal": _rehearsal,
    "l2sp": lambda given: L2SP.at(given.aligned, given.strength),
    "kl": lambda given: KLAnchor.at(given.aligned, given.prompts, given.strength, tokenizer=given.tokenizer),
    "anchor": lambda given: HiddenStateAnchor.at(
        given.aligned, given.prompts, given.strength, layers=given.v_rev.layers, tokenizer=given.tokenizer
    ),
    "safe_lora": _safe_lora,
    "freeze": _freeze,
}
