"""Gradient surgery: takes out of the task's gradient what conflicts with that of an alignment loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from revlens.training.gradients import inner_product
from revlens.training.guard import Guard, trained_parameters
from revlens.training.objectives.kl_anchor import KLAnchor
from revlens.training.state import State, matched, named_within, part_of


@dataclass
class GradientSurgery(Guard):
    """g <- g - min(<g, a>, 0) / ||a||^2 a + strength * a, with g the task's gradient, a the alignment's.

    Where the two conflict, the task's part becomes orthogonal to a; otherwise it stays as it is. This is
    SafeGrad (Yi et al. 2025, arXiv 2508.07172) with the projection of PCGrad (Yu et al. 2020, arXiv
    2001.06782), one inner product over all trained weights. Their alignment loss is the KL divergence from
    the aligned model over whole refusals; here it is over the guard probes' first answer tokens, which the
    method ``kl`` penalises, so that the two differ in what they do with it alone.

    g is complete and clipped before; what is added is not clipped. At the aligned model the divergence has no
    gradient but rounding, and the guard does nothing.

    Attributes:
        alignment: the alignment loss, its strength times the divergence.
        strength: weight of its gradient beside the task's.
    """

    alignment: KLAnchor
    strength: float

    def state_dict(self) -> dict[str, Tensor]:
        return named_within("alignment", self.alignment.state_dict())

    def load_state_dict(self, state: State) -> None:
        self.alignment.load_state_dict(part_of(matched(self, state), "alignment"))

    def before_update(self, model: nn.Module) -> None:
        loss = self.alignment.term(model)
        if loss <= torch.finfo(torch.float32).eps:
            return
        trained = list(trained_parameters(model).values())
        alignment = torch.autograd.grad(loss, trained, allow_unused=True)
        length = inner_product(alignment, alignment)
        if length == 0.0:
            return
        conflict = inner_product([parameter.grad for parameter in trained], alignment).clamp(max=0.0)
        weight = float(self.strength - conflict / length)
        for parameter, gradient in zip(trained, alignment, strict=True):
            if gradient is not None:
                parameter.grad = (
                    weight * gradient if parameter.grad is None else parameter.grad + weight * gradient
                )
