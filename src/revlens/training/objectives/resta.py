"""RESTA: adds what alignment changed in the weights once more, after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.history import hugging_face_name
from revlens.hooks import modules_of
from revlens.training.guard import Guard, trained_parameters
from revlens.training.state import State, check_fingerprint, fingerprint


@dataclass(frozen=True)
class RESTA(Guard):
    """At the end, W <- W + strength * (W_aligned - W_reference), for all trained weights.

    Task arithmetic with the vector of alignment (Bhardwaj et al. 2024, arXiv 2402.11746), without their
    variant that first drops a random part of the fine-tune's changes. Nothing happens before the end.

    Attributes:
        vector: W_aligned - W_reference by parameter name.
        strength: how much of it is added.
    """

    vector: Mapping[str, Tensor] = field(repr=False)
    strength: float

    @classmethod
    @torch.no_grad()
    def between(cls, reference: nn.Module, aligned: nn.Module, strength: float) -> RESTA:
        """Take the vector from the models before and after the alignment phase.

        Args:
            reference: the unaligned model, of the same kind (bridge or Hugging Face) as ``aligned``.
            aligned: the model about to be trained.
            strength: see the class.

        Raises:
            GuardError: if ``aligned`` has an adapter or trains no weight, or ``reference`` has not the same
                trained weights by name and shape, or equal ones.
        """
        if any(isinstance(module, BaseTunerLayer) for module in modules_of(aligned)):
            raise GuardError(
                "An adapter cannot hold what RESTA adds, which is not of its rank. Train without the guard, "
                "merge the adapter (merged = model.merge_and_unload()), and add it then: "
                "RESTA.between(reference, aligned, strength).end(merged), of models without adapters."
            )
        unaligned = {hugging_face_name(name): weight for name, weight in reference.named_parameters()}
        vector = {}
        for name, parameter in trained_parameters(aligned).items():
            before = unaligned.get(hugging_face_name(name))
            if before is None or before.shape != parameter.shape:
                raise GuardError(
                    f"The reference has no {name} of the aligned model's shape; "
                    "give the same kind of model for both."
                )
            vector[name] = parameter.detach() - before.to(parameter)
        if not any(change.any() for change in vector.values()):
            raise GuardError(
                "Reference and aligned have equal weights wherever the model trains, so RESTA would add "
                "nothing; give the models before and after the alignment phase."
            )
        return cls(vector, strength)

    @cached_property
    def _fingerprint(self) -> Tensor:
        return fingerprint(self.vector)

    def state_dict(self) -> dict[str, Tensor]:
        return {"fingerprint": self._fingerprint}

    def load_state_dict(self, state: State) -> None:
        check_fingerprint(self, state)

    @torch.no_grad()
    def end(self, model: nn.Module) -> None:
        """Add the vector.

        Raises:
            GuardError: if the model lacks a weight of it.
        """
        weights = dict(model.named_parameters())
        if missing := self.vector.keys() - weights.keys():
            raise GuardError(f"The model has no {min(missing)}; make RESTA with the model that is trained.")
        for name, change in self.vector.items():
            weights[name].add_(change.to(weights[name]), alpha=self.strength)
