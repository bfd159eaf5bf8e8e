"""Drift of mean activations from the aligned model, and its component along v_rev."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from revlens.activations import Activations
from revlens.direction.locate import ReversionDirection
from revlens.errors import HistoryError, ProbeError


@dataclass(frozen=True)
class Drift:
    """Motion of the mean activation during fine-tuning, D_l(t) = a_l(theta_t) - a_l(theta_0).

    Attributes:
        steps: optimizer updates at each row; step 0 has no drift and no row.
        vectors: D, in activation units.
        alignment: cos(D, v_rev); NaN where D is exactly zero.
        displacement: <D, v_rev>, in activation units.
        fraction: displacement / ||a(reference) - a(aligned)||: 0 = none, 1 = all the way back.
        layers: layer indices, in the order of the layer axis.
    """

    steps: tuple[int, ...]
    vectors: Float[Tensor, "step layer d_model"]
    alignment: Float[Tensor, "step layer"]
    displacement: Float[Tensor, "step layer"]
    fraction: Float[Tensor, "step layer"]
    layers: tuple[int, ...]

    @classmethod
    def along(
        cls, vectors: Float[Tensor, "step layer d_model"], v_rev: ReversionDirection, steps: tuple[int, ...]
    ) -> Drift:
        """A drift's vectors, measured along v_rev."""
        displacement = torch.einsum("sld,ld->sl", vectors, v_rev.unit)
        alignment = displacement / vectors.norm(dim=-1)  # 0/0 is NaN: a drift of length zero points nowhere
        return cls(steps, vectors, alignment, displacement, displacement / v_rev.gap, v_rev.layers)

    def minus(self, other: Drift, v_rev: ReversionDirection) -> Drift:
        """The part of this drift that another one, on other prompts at the same steps, does not share.

        Of harmful and harmless prompts, it is the drift of their separation.

        Raises:
            HistoryError: if the two differ in steps or layers.
        """
        if (self.steps, self.layers) != (other.steps, other.layers):
            raise HistoryError(
                f"Drifts of steps {self.steps} at layers {self.layers} and of steps {other.steps} at layers "
                f"{other.layers} cannot be compared; measure both on one history."
            )
        return Drift.along(self.vectors - other.vectors, v_rev, self.steps)

    def at_step(self, step: int) -> int:
        """Row of a step.

        Raises:
            HistoryError: if the step was not captured.
        """
        if step not in self.steps:
            raise HistoryError(
                f"Step {step} is not in this history; it has {', '.join(map(str, self.steps))}."
            )
        return self.steps.index(step)


def drift(
    activations: Activations, v_rev: ReversionDirection, split: str = "drift", *, naive: bool = False
) -> Drift:
    """Drift of a captured history on one probe split, measured along v_rev.

    v_rev and D share the term a(theta_0). On the same prompts their sampling errors are correlated, and the
    cosine is biased upward even if nothing reverts. So v_rev must come from another split; ``naive`` gives
    the biased cosine, to be shown beside the cross-fitted one.

    Args:
        activations: of a captured history with at least one fine-tuning step.
        v_rev: estimated on the same layers.
        split: the probe split on which drift is measured.
        naive: accept a v_rev that was estimated on ``split``.

    Raises:
        ProbeError: if v_rev was estimated on ``split`` without ``naive``, or the split was not captured.
        HistoryError: if no fine-tuning step was captured, or the layers differ from those of v_rev.
    """
    if v_rev.split == split and not naive:
        raise ProbeError(
            f"v_rev was estimated on the drift split {split!r}: the cosine would be biased upward. "
            "Use another split, or naive=True to get the biased figure for comparison."
        )
    if v_rev.layers != activations.layers:
        raise HistoryError(
            f"v_rev has layers {v_rev.layers}, the activations {activations.layers}; they must be equal."
        )
    if not activations.steps:
        raise HistoryError("No fine-tuning step was captured, so there is no drift to measure.")
    start = activations.at("aligned", split).mean(0)
    vectors = torch.stack(
        [activations.at(f"step-{step}", split).mean(0) - start for step in activations.steps]
    )
    return Drift.along(vectors, v_rev, activations.steps)
