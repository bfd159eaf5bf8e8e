"""Sites: one component of the residual stream, at chosen layers."""

from __future__ import annotations

from dataclasses import dataclass

from revlens.errors import SiteError
from revlens.hooks import point_name

#: TransformerLens names of the d_model-wide hook points of a block.
COMPONENTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Sites:
    """One component at chosen layers.

    Attributes:
        component: one of `COMPONENTS`; ``resid_post`` is the residual stream after a block.
        layers: increasing layer indices from 0; None for every layer of the model.

    Raises:
        SiteError: on an unknown component, or layers that are negative or not increasing.
    """

    component: str = "resid_post"
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise SiteError(f"Unknown component {self.component!r}; expected one of {', '.join(COMPONENTS)}.")
        if self.layers is not None and (
            not self.layers or list(self.layers) != sorted({i for i in self.layers if i >= 0})
        ):
            raise SiteError(f"layers={self.layers} must be increasing, without repeats, and at least 0.")

    def resolve(self, n_layers: int) -> tuple[int, ...]:
        """The layers on a model of ``n_layers``.

        Raises:
            SiteError: if a layer lies beyond the model's last one.
        """
        if self.layers is None:
            return tuple(range(n_layers))
        if self.layers[-1] >= n_layers:
            raise SiteError(
                f"Layer {self.layers[-1]} does not exist: the model has layers 0 to {n_layers - 1}."
            )
        return self.layers

    def hook_names(self, n_layers: int) -> list[str]:
        """Hook point names, e.g. ``blocks.3.hook_resid_post``, by layer."""
        return [point_name(layer, self.component) for layer in self.resolve(n_layers)]
