"""L2-SP: holds weights near where they start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from revlens.training.guard import Guard, copied, trained_alike, trained_parameters
from revlens.training.state import State, matched, named_within, part_of


@dataclass
class L2SP(Guard):
    """strength / 2 * ||theta - theta_0||^2 over the trained parameters (Li et al. 2018, arXiv 1802.01483).

    With a LoRA adapter these are its factors, as the base does not move. Under FSDP2 every process keeps all
    of theta_0. A Trainer's checkpoints have a copy of it.

    Attributes:
        start: theta_0 by parameter name.
        strength: nats per squared weight unit.
    """

    start: Mapping[str, Tensor] = field(repr=False)
    strength: float

    @classmethod
    def at(cls, model: nn.Module, strength: float) -> L2SP:
        """Hold a model, about to be trained, near its present weights, which are copied.

        Raises:
            GuardError: if no parameter requires gradients.
        """
        return cls(copied(trained_parameters(model), "L2SP would do nothing"), strength)

    def state_dict(self) -> dict[str, Tensor]:
        return named_within("start", {name: _whole(start) for name, start in self.start.items()})

    def load_state_dict(self, state: State) -> None:
        self.start = part_of(matched(self, state), "start")

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        squares = [
            _whole((parameter - _like(parameter, self.start[name])).square().sum()).float()
            for name, parameter in trained_alike(model, self.start, "L2SP").items()
        ]
        return 0.5 * self.strength * torch.stack(squares).sum()


def _like(parameter: Tensor, start: Tensor) -> Tensor:
    """The start on the parameter's device, in its dtype; under FSDP2, this process's shard of it."""
    start = start.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor) and not isinstance(start, DTensor):
        return distribute_tensor(start, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return start


def _whole(total: Tensor) -> Tensor:
    """The sum over processes, if each has the sum over its shard."""
    return total.full_tensor() if isinstance(total, DTensor) else total
