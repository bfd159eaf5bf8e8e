"""Safe LoRA: projects weight changes onto what alignment changed, after training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from revlens.errors import ConfigError
from revlens.training.objectives.alignment_change import (
    AlignmentChange,
    Matrix,
    along,
    changed_by_alignment,
    outputs_first_in,
    unit_size,
    weight_of,
)


@dataclass(frozen=True)
class SafeLoRA(AlignmentChange):
    """At the end, dW <- C dW for every weight matrix with cos(dW, C dW) < threshold.

    V = W_aligned - W_reference is what alignment did to the matrix, and C = V V^T / s(V)^2 with s the largest
    singular value. Hsu et al. (2024, arXiv 2405.16833) have V V^T / ||V||_F: the same up to a factor, which
    depends on the units of the weights there; here C shrinks nothing along V's leading direction. dW is the
    change of the matrix since the aligned model, or scaling * B A of an adapter, whose B is projected.
    Nothing happens before the end, so checkpoints before the last update are not projected.

    Attributes:
        alignment, start: see `AlignmentChange`.
        threshold: on cos(dW, C dW); 1 projects every matrix.

    Raises:
        ConfigError: if the threshold is not above 0 and at most 1.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ConfigError(f"threshold={self.threshold} on a cosine must be above 0 and at most 1.")

    @classmethod
    def between(cls, reference: nn.Module, aligned: nn.Module, threshold: float) -> SafeLoRA:
        """Prepare the projection, from the models before and after the alignment phase.

        Args:
            reference: the unaligned model, of the same kind (bridge or Hugging Face) as ``aligned``.
            aligned: the model about to be trained, with its adapter if it gets one.
            threshold: see the class.

        Raises:
            GuardError: see `changed_by_alignment`.
        """
        return cls(*changed_by_alignment(reference, aligned, cls.__name__), threshold)

    @torch.no_grad()
    def end(self, model: nn.Module) -> None:
        """Project.

        Raises:
            GuardError: if the model lacks a matrix that the projection was prepared for.
        """
        for name, module in self.prepared_modules(model):
            v = self.alignment[name]
            if isinstance(module, LoraLayer):
                for adapter in module.active_adapters:
                    a, b = (weight_of(factors[adapter]) for factors in (module.lora_A, module.lora_B))
                    b.copy_(self._projected(v, b.float(), b.float() @ a.float()))
            else:
                weight = weight_of(module)
                start = self.start[name].to(weight.device)
                change = outputs_first_in(module, weight - start).float()
                weight.copy_(start + outputs_first_in(module, self._projected(v, change, change)).to(start))

    def _projected(self, v: Matrix, factor: Float[Tensor, "out k"], change: Matrix) -> Float[Tensor, "out k"]:
        """C times ``factor`` if C turns ``change`` by more than the threshold allows; else ``factor``."""
        unit = unit_size(v.to(factor.device))
        projected = along(unit, change)
        cosine = torch.cosine_similarity(projected.flatten(), change.flatten(), dim=0)
        return along(unit, factor) if cosine < self.threshold else factor
