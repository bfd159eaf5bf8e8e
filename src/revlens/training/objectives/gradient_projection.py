"""Gradient projection: removes from each update what would move the probes along v_rev."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.training.gradients import Gradients, inner_product
from revlens.training.guard import trained_parameters
from revlens.training.objectives.motion_guard import MotionGuard


@dataclass
class GradientProjection(MotionGuard):
    """Holds every p_l at zero to first order: a hard constraint, without a strength.

    This is Rosen's gradient projection (1960) on the constraints p_l = 0. Their gradients g_l come from one
    vector-Jacobian product a layer, at the weights before the update. Orthogonal gradient descent (Farajtabar
    et al. 2019, arXiv 1910.07104) does the same with a model's outputs.

    It projects the update u that the optimizer has made, with its momentum, preconditioner, learning rate,
    clipping and weight decay: AdamW's preconditioner would turn a projected *gradient* back towards v_rev. It
    replaces u by the nearest u' (in the Euclidean norm of the weights) with

        <g_l, u'> = -p_l  for every layer l,

    where p_l is the displacement before the update: zero at the aligned model, and later the second-order
    remainder of the updates before, which this one takes back. So p_l after an update of length e is of order
    e^2, at every update. Motion against v_rev is held as well.

    It costs one copy of the trained parameters, and for each layer a backward pass through the probes and the
    memory of a gradient. Choose few layers in full fine-tuning of a large model.

    Attributes:
        motion: on which probes, at which layers, along what.
    """

    _before: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _gradients: list[Gradients] = field(default_factory=list, init=False, repr=False)
    _displacement: Float[Tensor, " layer"] | None = field(default=None, init=False, repr=False)

    def before_update(self, model: nn.Module) -> None:
        """Remember the weights, and how the displacement depends on them.

        Raises:
            GuardError: if no trained parameter moves the probes, see `ProbeMotion.displacement`.
        """
        trained = list(trained_parameters(model).values())
        displacement = self.motion.displacement(model)
        last = len(displacement) - 1
        self._gradients = [
            list(torch.autograd.grad(p, trained, retain_graph=layer < last, allow_unused=True))
            for layer, p in enumerate(displacement)
        ]
        self._displacement = displacement.detach()
        self._before = [parameter.detach().clone() for parameter in trained]

    @torch.no_grad()
    def after_update(self, model: nn.Module) -> None:
        """Replace the update by the nearest one that holds the constraints."""
        assert self._displacement is not None, "before_update comes first"
        trained = list(trained_parameters(model).values())
        update: Gradients = [
            parameter - before for parameter, before in zip(trained, self._before, strict=True)
        ]
        gram = torch.stack(
            [torch.stack([inner_product(a, b) for b in self._gradients]) for a in self._gradients]
        )
        excess = torch.stack([inner_product(gradients, update) for gradients in self._gradients])
        excess += self._displacement.to(excess)
        # Gradients of neighbouring layers are nearly parallel, and zero at layers below all that is trained.
        multipliers = torch.linalg.pinv(gram, rtol=1e-8, hermitian=True) @ excess
        for multiplier, gradients in zip(multipliers.tolist(), self._gradients, strict=True):
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=multiplier)
        self._before, self._gradients = [], []
