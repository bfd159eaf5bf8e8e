"""AsFT: a penalty on the part of the weights' change that lies off what alignment changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.forward import is_sharded
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
class AsFT(AlignmentChange):
    """strength * sum over weight matrices of ||dW - C dW||^2 (Yang et al. 2025, arXiv 2506.08473).

    dW is the change of a matrix since the aligned model, or scaling * B A of an adapter. C = V V^T / s(V)^2
    keeps of it what lies along the change V that alignment made, with s the largest singular value. Theirs is
    V V^T / ||V||_F, whose size depends on the units of the weights; see `SafeLoRA`, which projects with the
    same C after training.

    Each update costs about as much as a forward and backward pass over as many tokens as the model is wide.

    Attributes:
        alignment, start: see `AlignmentChange`.
        strength: nats per squared weight unit.

    Raises:
        GuardError: in training under FSDP2, which has no matrix whole.
    """

    strength: float

    @classmethod
    def between(cls, reference: nn.Module, aligned: nn.Module, strength: float) -> AsFT:
        """Prepare the penalty, from the models before and after the alignment phase.

        Args:
            reference: the unaligned model, of the same kind (bridge or Hugging Face) as ``aligned``.
            aligned: the model about to be trained, with its adapter if it gets one.
            strength: see the class.

        Raises:
            GuardError: see `changed_by_alignment`.
        """
        return cls(*changed_by_alignment(reference, aligned, cls.__name__), strength)

    @cached_property
    def _directions(self) -> Mapping[str, Matrix]:
        """V / s(V)."""
        return {name: unit_size(v) for name, v in self.alignment.items()}

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        if is_sharded(model):
            raise GuardError("AsFT projects whole matrices, of which FSDP2 has shards; use DDP.")
        squares = []
        for name, module in self.prepared_modules(model):
            if isinstance(module, LoraLayer):
                off = [
                    module.scaling[adapter]
                    * self._off(name, weight_of(module.lora_B[adapter]))
                    @ weight_of(module.lora_A[adapter])
                    for adapter in module.active_adapters
                ]
                squares.append(torch.stack(off).sum(0).square().sum())
            else:
                weight = weight_of(module)
                change = outputs_first_in(module, weight - self.start[name].to(weight))
                squares.append(self._off(name, change).square().sum())
        return self.strength * torch.stack(squares).sum()

    def _off(self, name: str, factor: Float[Tensor, "out k"]) -> Float[Tensor, "out k"]:
        """The factor minus C times it, in float32 at least."""
        wide = torch.promote_types(factor.dtype, torch.float32)
        v, factor = self._directions[name].to(factor.device, wide), factor.to(wide)
        return factor - along(v, factor)
