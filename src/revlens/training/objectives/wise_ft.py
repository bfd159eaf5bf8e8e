"""WiSE-FT: interpolates between the trained and the aligned weights, after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from revlens.errors import ConfigError, GuardError
from revlens.hooks import modules_of
from revlens.training.guard import Guard, copied, trained_parameters
from revlens.training.state import State, matched, named_within, part_of


@dataclass
class WiSEFT(Guard):
    """At the end, W <- (1 - share) * W + share * W_aligned, for all trained weights.

    From Wortsman et al. (2022, arXiv 2109.01903), whose zero-shot model is the aligned one here. Of a LoRA
    adapter that starts at zero, as a new one does, this scales the product B A, and so B. Nothing happens
    before the end.

    Attributes:
        start: the aligned weights by parameter name, but for the factors A of adapters.
        share: of the aligned weights, strictly between 0 and 1.

    Raises:
        ConfigError: if the share is not strictly between 0 and 1.
    """

    start: Mapping[str, Tensor] = field(repr=False)
    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(f"share={self.share} of aligned weights must lie strictly between 0 and 1.")

    @classmethod
    def at(cls, aligned: nn.Module, share: float) -> WiSEFT:
        """Interpolate with a model, about to be trained, whose trained weights are copied.

        Raises:
            GuardError: if no parameter requires gradients; or for an adapter that is not LoRA, that is DoRA,
                or that does not start at zero.
        """
        for module in modules_of(aligned):
            if isinstance(module, BaseTunerLayer) and not _is_scalable(module):
                raise GuardError(
                    f"The weights of {type(module).__name__} cannot be interpolated exactly: the adapter is "
                    "not plain LoRA, or does not start at zero. Merge it (merge_and_unload) and add a new "
                    "LoRA adapter with peft's own initialization."
                )
        moved = {
            name: parameter
            for name, parameter in trained_parameters(aligned).items()
            if ".lora_A." not in name and ".lora_embedding_A." not in name
        }
        return cls(copied(moved, "WiSEFT would do nothing"), share)

    def state_dict(self) -> dict[str, Tensor]:
        return named_within("start", self.start)

    def load_state_dict(self, state: State) -> None:
        self.start = part_of(matched(self, state), "start")

    @torch.no_grad()
    def end(self, model: nn.Module) -> None:
        """Interpolate.

        Raises:
            GuardError: if the model lacks a weight that has been copied.
        """
        weights = dict(model.named_parameters())
        if missing := self.start.keys() - weights.keys():
            raise GuardError(f"The model has no {min(missing)}; make WiSEFT with the model that is trained.")
        for name, start in self.start.items():
            weights[name].lerp_(start.to(weights[name]), self.share)


def _is_scalable(module: BaseTunerLayer) -> bool:
    """Whether it is LoRA whose product is zero, and no DoRA."""
    if not isinstance(module, LoraLayer) or len(module.lora_magnitude_vector):
        return False
    factors = [*module.lora_B.parameters(), *module.lora_embedding_B.parameters()]
    return not any(factor.any() for factor in factors)
