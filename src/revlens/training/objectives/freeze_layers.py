"""Freezing layers for the length of a fine-tune."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from revlens.errors import ConfigError, GuardError
from revlens.training.guard import Guard
from revlens.training.model_parts import decoder_layers
from revlens.training.state import State, matched


@dataclass
class FreezeLayers(Guard):
    """Does not train some layers, as Li et al. (2024, arXiv 2408.17003) do with those that carry safety.

    Of a model with an adapter, it freezes the adapter's weights at these layers. The layers thaw at the end.

    Attributes:
        layers: layer indices.

    Raises:
        ConfigError: if there are no layers.
    """

    layers: tuple[int, ...]
    _frozen: list[nn.Parameter] = field(default_factory=list, init=False, repr=False)
    _hooks: list[RemovableHandle] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers=() freezes nothing; name at least one layer.")

    def begin(self, model: nn.Module) -> None:
        """Freeze.

        Raises:
            GuardError: if a layer does not exist, or no parameter of the layers requires gradients.
        """
        self.release(model)  # of a training before this one
        blocks = decoder_layers(model)
        if not all(0 <= layer < len(blocks) for layer in self.layers):
            raise GuardError(
                f"Cannot freeze layers {self.layers}: the model has layers 0 to {len(blocks) - 1}."
            )
        self._frozen = [p for layer in self.layers for p in blocks[layer].parameters() if p.requires_grad]
        if not self._frozen:
            raise GuardError(
                f"No parameter of layers {self.layers} requires gradients, so freezing them would do nothing."
            )
        self._freeze()
        # peft thaws an adapter whenever it is switched back on, as DPO does amid an update. Checkpointed
        # layers run a second time, without their own hooks but with those of the modules within.
        frozen = set(map(id, self._frozen))
        for module in (module for layer in self.layers for module in blocks[layer].modules()):
            if frozen.intersection(map(id, module.parameters(recurse=False))):
                self._hooks.append(module.register_forward_pre_hook(self._freeze))

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        """Freeze again what has thawed.

        Raises:
            GuardError: if the model is not the one with which the guard has begun.
        """
        self._freeze()
        blocks = decoder_layers(model)
        if any(p.requires_grad for layer in self.layers for p in blocks[layer].parameters()):
            raise GuardError(
                f"Layers {self.layers} are not frozen: the guard has begun with another model. "
                "Give every training a FreezeLayers of its own."
            )
        return nullcontext()

    def end(self, model: nn.Module) -> None:
        """Thaw what was frozen."""
        self.release(model)

    def release(self, model: nn.Module) -> None:
        self._thaw()

    def _freeze(self, *args: object) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def _thaw(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen, self._hooks = [], []

    def state_dict(self) -> dict[str, Tensor]:
        return {"is_frozen": torch.tensor(bool(self._frozen))}

    def load_state_dict(self, state: State) -> None:
        if not matched(self, state)["is_frozen"]:
            self._thaw()
