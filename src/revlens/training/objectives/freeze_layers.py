"""Freezing layers for the length of a fine-tune."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from revlens.errors import ConfigError, GuardError
from revlens.training.guard import Guard
from revlens.training.model_parts import decoder_layers


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

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers=() freezes nothing; name at least one layer.")

    def begin(self, model: nn.Module) -> None:
        """Freeze.

        Raises:
            GuardError: if a layer does not exist, or no parameter of the layers requires gradients.
        """
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
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def end(self, model: nn.Module) -> None:
        """Thaw what was frozen."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
