"""Derivatives along a direction in weight space, by forward mode: exact, in one pass, for many outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from revlens.errors import ModelError
from revlens.hooks import modules_of

#: Tensors of weight space, by the names of trained parameters.
Weights = Mapping[str, Tensor]


def derivative_along(
    model: nn.Module, direction: Weights, compute: Callable[[], Float[Tensor, "*out"]]
) -> tuple[Float[Tensor, "*out"], Float[Tensor, "*out"]]:
    """What ``compute`` returns at the model's weights, and its derivative along a direction of them.

    The derivative is d/de compute(theta + e * direction) at e = 0, a Jacobian-vector product. It keeps no
    graph: memory is that of a forward pass, twice.

    Args:
        model: whose weights move; no buffer and no frozen parameter does.
        direction: by parameter name; weights without an entry stay.
        compute: runs the model.

    Raises:
        ModelError: if an operation of the model has no forward derivative.
    """
    with _moving(model, direction):
        try:
            value, derivative = forward_ad.unpack_dual(compute())
        except NotImplementedError as error:
            raise ModelError(
                f"An operation of the model has no forward derivative in torch ({error}). To score rows "
                "without one, use backward passes alone: screen(..., adamw=True). To predict a first update, "
                "load the model without quantisation and custom kernels."
            ) from error
        return value, torch.zeros_like(value) if derivative is None else derivative


@contextmanager
def _moving(model: nn.Module, direction: Weights) -> Iterator[None]:
    """Give parameters a tangent each, wherever a module has them, until the context closes.

    `torch.func.functional_call` does the same by module names; a bridge has one module under several.
    """
    parameters = dict(model.named_parameters())
    places = [
        (module, name, parameter)
        for module in modules_of(model)
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    # Fused attention kernels have no forward derivative; the plain one has.
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        duals = {
            id(parameters[name]): forward_ad.make_dual(parameters[name].detach(), tangent)
            for name, tangent in direction.items()
        }
        try:
            for module, name, parameter in places:
                if id(parameter) in duals:
                    module._parameters[name] = duals[id(parameter)]
            yield
        finally:
            for module, name, parameter in places:
                module._parameters[name] = parameter
