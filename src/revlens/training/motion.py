"""Motion of the mean probe activation since the aligned model, and its part along v_rev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.direction import ReversionDirection
from revlens.errors import GuardError, NonFiniteError
from revlens.prompts import Batch
from revlens.training.model_parts import probe_batch, shape_of
from revlens.training.state import State, matched
from revlens.training.streams import read_streams, require_gradient


@dataclass(frozen=True)
class ProbeMotion:
    """Drift D_l of the mean probe activation since the aligned model, and displacement p_l along a direction.

    Attributes:
        batch: the guard probes, tokenized.
        start: their mean activation under the aligned model.
        unit: the directions, of norm 1 at each layer.
        gap: the length of a full reversion at each layer, in activation units.
        layers: layer indices, in the order of the layer axis.
    """

    batch: Batch
    start: Float[Tensor, "layer d_model"]
    unit: Float[Tensor, "layer d_model"]
    gap: Float[Tensor, " layer"]
    layers: tuple[int, ...]

    @classmethod
    def along(
        cls,
        v_rev: ReversionDirection,
        aligned: nn.Module,
        prompts: Sequence[str],
        *,
        layers: tuple[int, ...] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> ProbeMotion:
        """Fix the starting point at the aligned model, on the guard probes.

        Args:
            v_rev: the reversion direction.
            aligned: the model at step 0: a bridge, or the Hugging Face model that a Trainer will train.
            prompts: user messages.
            layers: some of v_rev's layers; all of them if None.
            tokenizer: of a Hugging Face model; a bridge has its own.

        Raises:
            GuardError: if v_rev is of another width than the model, has a layer that the model lacks or lacks
                a chosen layer, or if there is no tokenizer.
            ProbeError: if there is no prompt.
            ConfigError: see `revlens.training.model_parts.probe_batch`.
            NonFiniteError: if an activation is not finite.
        """
        n_layers, d_model = shape_of(aligned)
        if v_rev.unit.shape[1] != d_model or max(v_rev.layers) >= n_layers:
            raise GuardError(
                f"v_rev is for layers {v_rev.layers} of width {v_rev.unit.shape[1]}; "
                f"the model has {n_layers} layers of width {d_model}."
            )
        layers = v_rev.layers if layers is None else layers
        if not layers or list(layers) != [layer for layer in v_rev.layers if layer in layers]:
            raise GuardError(f"layers={layers} must be some of v_rev's, in their order: {v_rev.layers}.")
        rows = [v_rev.layers.index(layer) for layer in layers]
        device = next(aligned.parameters()).device
        batch = probe_batch(aligned, prompts, tokenizer)
        with torch.no_grad():
            start = _mean_activation(aligned, batch, layers)
        if not start.isfinite().all():
            layer = layers[int((~start.isfinite()).any(-1).nonzero()[0])]
            raise NonFiniteError(
                f"A probe's resid_post at layer {layer} is not finite under the aligned model; "
                "check the model, or load it in a wider dtype."
            )
        return cls(
            batch,
            start.to(device),
            v_rev.unit[rows].float().to(device),
            v_rev.gap[rows].float().to(device),
            layers,
        )

    def drift(self, model: nn.Module) -> Float[Tensor, "layer d_model"]:
        """D_l at the model's present weights, in activation units, in float32 at least.

        It is on the device of ``start``, from which a Trainer may have moved the model.
        """
        return _mean_activation(model, self.batch, self.layers).to(self.start.device) - self.start

    def displacement(self, model: nn.Module) -> Float[Tensor, " layer"]:
        """p_l = <D_l, unit_l> at the model's present weights, in activation units, with a gradient.

        Raises:
            GuardError: if the activations have no gradient (a frozen model, or `torch.no_grad`).
        """
        return (require_gradient(self.drift(model)) * self.unit).sum(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the motion started and along what it is, and the probes and layers it is on."""
        return {
            "start": self.start,
            "unit": self.unit,
            "gap": self.gap,
            "tokens": self.batch.tokens,
            "mask": self.batch.mask,
            "layers": torch.tensor(self.layers),
        }

    def since(self, state: State) -> ProbeMotion:
        """The motion from the start of a training that is resumed, on the same probes and layers.

        Raises:
            GuardError: if probes or layers are others.
        """
        saved, own = matched(self, state), self.state_dict()
        for name, what in (("tokens", "probes"), ("mask", "probes"), ("layers", "layers")):
            if not torch.equal(saved[name], own[name]):
                raise GuardError(
                    f"The {what} are not those of the training that is resumed; make guard and monitor as "
                    "there, with the same prompts, tokenizer and layers."
                )
        return replace(self, start=saved["start"], unit=saved["unit"], gap=saved["gap"])


def _mean_activation(
    model: nn.Module, batch: Batch, layers: tuple[int, ...]
) -> Float[Tensor, "layer d_model"]:
    """Mean over the probes, in float32 at least.

    Start and drift share this function, so that the aligned model's own drift is exactly zero.
    """
    streams = read_streams(model, batch, layers)
    return streams.to(torch.promote_types(streams.dtype, torch.float32)).mean(0)
