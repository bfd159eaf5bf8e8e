"""The base of guards that compare a change of weight matrices with what alignment changed in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.families import Linear, outputs_first
from revlens.history import hugging_face_name
from revlens.training.guard import Guard
from revlens.training.model_parts import decoder_layers
from revlens.training.state import State, check_fingerprint, fingerprint

#: A weight matrix with output features in rows.
Matrix = Float[Tensor, "out in"]


@dataclass(frozen=True)
class AlignmentChange(Guard):
    """A guard that knows V = W_aligned - W_reference of every linear module of the layers that is trained.

    Attributes:
        alignment: V by the name of the linear module, output features in rows.
        start: the aligned weights, as the modules store them; empty for adapters.
    """

    alignment: Mapping[str, Matrix] = field(repr=False)
    start: Mapping[str, Tensor] = field(repr=False)

    @cached_property
    def _fingerprint(self) -> Tensor:
        return fingerprint(self.alignment, self.start)

    def state_dict(self) -> dict[str, Tensor]:
        return {"fingerprint": self._fingerprint}

    def load_state_dict(self, state: State) -> None:
        check_fingerprint(self, state)

    def prepared_modules(self, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """The modules that the guard was prepared for, with their names.

        Raises:
            GuardError: if the model lacks one.
        """
        modules = dict(linear_modules(model))
        missing = self.alignment.keys() - modules.keys()
        if missing:
            raise GuardError(
                f"The model has no {min(missing)}; prepare {self} with the model that is trained."
            )
        return ((name, modules[name]) for name in self.alignment)


@torch.no_grad()
def changed_by_alignment(
    reference: nn.Module, aligned: nn.Module, guard: str
) -> tuple[dict[str, Matrix], dict[str, Tensor]]:
    """The attributes of an `AlignmentChange`, from the models before and after the alignment phase.

    Args:
        reference: the unaligned model, of the same kind (bridge or Hugging Face) as ``aligned``.
        aligned: the model about to be trained, with its adapter if it gets one.
        guard: its name in messages.

    Raises:
        GuardError: if ``aligned`` trains no linear module of its layers, one by DoRA, or a matrix of them
            that is no linear module's; or ``reference`` lacks one of them or has equal weights there.
    """
    _check_all_linear(aligned, guard)
    unaligned = dict(linear_modules(reference))
    alignment, start = {}, {}
    for name, module in linear_modules(aligned):
        if not any(parameter.requires_grad for parameter in module.parameters()):
            continue
        if isinstance(module, LoraLayer) and len(module.lora_magnitude_vector):
            raise GuardError(
                f"{name} has a DoRA adapter, which changes the matrix by more than B A; {guard} "
                "takes plain LoRA (use_dora=False) or full training."
            )
        if name not in unaligned or weight_of(unaligned[name]).shape != weight_of(module).shape:
            raise GuardError(
                f"The reference has no {name} of the aligned model's shape; "
                "give the same kind of model for both."
            )
        alignment[name] = matrix_of(module) - matrix_of(unaligned[name]).to(weight_of(module).device)
        if not alignment[name].any():
            raise GuardError(
                f"Reference and aligned have equal weights at {name}, which does not say what alignment "
                "changed there; give the models before and after the alignment phase."
            )
        if not isinstance(module, LoraLayer):
            start[name] = weight_of(module).clone()
    if not alignment:
        raise GuardError(f"The model trains no linear module of its layers, so {guard} would do nothing.")
    return alignment, start


def _check_all_linear(model: nn.Module, guard: str) -> None:
    """Check that the layers train no matrix but those of linear modules."""
    listed = [module for _, module in linear_modules(model) if isinstance(_within_adapter(module), Linear)]
    known = {id(parameter) for module in listed for parameter in module.parameters()}
    for layer, block in enumerate(decoder_layers(model)):
        for name, parameter in block.named_parameters():
            n_axes = sum(size > 1 for size in parameter.shape)
            if parameter.requires_grad and id(parameter) not in known and n_axes > 1:
                raise GuardError(
                    f"{hugging_face_name(f'{layer}.{name}')} of shape {tuple(parameter.shape)} is trained "
                    "and is no linear module's matrix (a router, or all experts in one tensor, say), "
                    f"so {guard} does not know what alignment changed there. Freeze such weights, train an "
                    "adapter on linear modules alone, or use another guard, such as l2sp."
                )


def linear_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every linear module of the decoder layers, or the adapter around it.

    Its name is that of the bare Hugging Face model, also in a bridge or under an adapter.
    """
    for layer, block in enumerate(decoder_layers(model)):
        adapted: tuple[str, ...] = ()
        for path, module in block.named_modules():
            if path.startswith(adapted):  # within an adapter that has been listed
                continue
            if isinstance(module, LoraLayer):
                adapted = (*adapted, f"{path}.")
            if isinstance(module, LoraLayer | Linear):
                assert isinstance(module, nn.Module)  # peft's LoraLayer is a mixin
                yield hugging_face_name(f"{layer}.{path}"), module


def unit_size(v: Matrix) -> Matrix:
    """V / s(V) in float32, with s the largest singular value."""
    return v.float() / torch.linalg.matrix_norm(v.float(), 2)


def along(unit: Matrix, factor: Float[Tensor, "out k"]) -> Float[Tensor, "out k"]:
    """C times a factor, with C = V V^T / s(V)^2: what of it lies along the change V; see `unit_size`."""
    return unit @ (unit.T @ factor)


def weight_of(module: nn.Module) -> Tensor:
    weight = _within_adapter(module).weight
    assert isinstance(weight, Tensor)
    return weight


def matrix_of(module: nn.Module) -> Matrix:
    return outputs_first_in(module, weight_of(module))


def outputs_first_in(module: nn.Module, weight: Float[Tensor, "a b"]) -> Float[Tensor, "c d"]:
    """Output features in rows, also of a module inside an adapter. Its own inverse."""
    return outputs_first(_within_adapter(module), weight)


def _within_adapter(module: nn.Module) -> nn.Module:
    """The module that an adapter adapts, or the module itself."""
    return module.get_base_layer() if isinstance(module, LoraLayer) else module
