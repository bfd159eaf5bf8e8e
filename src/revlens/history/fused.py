"""Projections that Hugging Face keeps fused (query_key_value, c_attn, gate_up_proj) and a bridge splits.

TransformerBridge computes with split copies only. So training changes the copies, and not the fused weight
that Hugging Face reads, and a LoRA layer around the fused module would not be called.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components import LinearBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from revlens.errors import HistoryError
from revlens.families import FUSED, outputs_first


@dataclass(frozen=True)
class Fused:
    """One fused projection of a bridge, and the parts that compute in its place.

    Attributes:
        name: the fused module's name in the Hugging Face model.
        module: the fused module; a LoRA layer if an adapter targets it.
        parts: bridges of the parts.
        rows: for each part, the output features of the fused module that it computes.
    """

    name: str
    module: nn.Module
    parts: tuple[LinearBridge, ...]
    rows: tuple[Int[Tensor, " _"], ...]

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parts' own parameters."""
        for part in self.parts:
            yield from part.parameters()

    @torch.no_grad()
    def joined(self) -> dict[str, Tensor]:
        """The fused module's parameters by Hugging Face name, with the parts' current values."""
        tensors = {
            f"{self.name}.{key}": value.detach().clone() for key, value in self.module.named_parameters()
        }
        for part, rows in zip(self.parts, self.rows, strict=True):
            linear = part.original_component
            assert isinstance(linear, nn.Linear)
            outputs_first(self.module, tensors[f"{self.name}.weight"])[rows] = linear.weight
            if f"{self.name}.bias" in tensors:
                tensors[f"{self.name}.bias"][rows] = linear.bias
        return tensors

    def reconnect(self) -> None:
        """Let every part compute its rows with the fused module from now on."""
        for part, rows in zip(self.parts, self.rows, strict=True):
            part.set_original_component(Rows(self.module, rows))


class Rows(nn.Module):
    """Some output features of another module, which keeps the weights.

    Each part computes the whole module: three times the work of a fused projection, and only under adapters.
    """

    def __init__(self, module: nn.Module, rows: Int[Tensor, " d_part"]) -> None:
        super().__init__()
        self._source = [module]  # in a list, so that it does not count as a submodule a second time
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_part"]:
        return self._source[0](x)[..., self.rows]


def fused_projections(model: nn.Module) -> list[Fused]:
    """Every fused projection of a bridge's Hugging Face model.

    Raises:
        HistoryError: if a bridge's parts are not output features of the fused weight.
    """
    found, seen = [], set()
    for path, component in model.named_modules():
        kind = next((kind for kind in FUSED if isinstance(component, kind.component)), None)
        if kind is None:
            continue
        assert isinstance(component, GeneralizedComponent)
        original, attribute = component.original_component, kind.fused_name(component)
        assert isinstance(original, nn.Module)
        module = getattr(original, attribute)
        if isinstance(module, GeneralizedComponent):
            module = module.original_component
        name = f"{hugging_face_name(path)}.{attribute}"
        if name not in seen:
            seen.add(name)
            parts = tuple(getattr(component, part) for part in kind.parts)
            rows = _rows(original, attribute, module, getattr(component, kind.split), name)
            found.append(Fused(name, module, parts, rows))
    return found


def hugging_face_name(name: str) -> str:
    """The name that a module or parameter had before a bridge wrapped its parents."""
    return name.replace("._original_component", "")


def _rows(
    original: nn.Module, attribute: str, module: nn.Module, split: object, name: str
) -> tuple[Int[Tensor, " _"], ...]:
    """Which output features each part holds: the bridge's split of a weight that holds feature numbers."""
    assert callable(split)
    linear = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    weight = linear.weight
    assert isinstance(weight, Tensor)
    shape = outputs_first(linear, weight).shape
    numbers = torch.arange(shape[0], dtype=torch.float64, device=weight.device)
    numbered = copy.copy(linear)
    numbered._parameters = dict(linear._parameters)
    filled = outputs_first(linear, numbers[:, None].expand(shape))
    numbered._parameters["weight"] = nn.Parameter(filled, requires_grad=False)
    if getattr(linear, "bias", None) is not None:
        numbered._parameters["bias"] = nn.Parameter(numbers, requires_grad=False)
    owner = copy.copy(original)
    owner._modules = {**original._modules, attribute: numbered}
    with torch.random.fork_rng(devices=[]):  # splits build linear layers, which draw random weights first
        weights = [part.weight.detach() for part in split(owner)]
    rows = tuple(part[:, 0].long() for part in weights)
    are_rows = all(bool((part == row[:, None]).all()) for part, row in zip(weights, rows, strict=True))
    if not are_rows or not torch.equal(torch.cat(rows).sort().values, numbers.long()):
        raise HistoryError(
            f"The bridge splits {name} in a way that revlens cannot undo; "
            "checkpoints of this family can be read, not trained."
        )
    return rows
