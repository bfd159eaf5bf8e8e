"""Hidden-state anchor: holds every probe's activation where the aligned model has it, in all directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import GuardError
from revlens.prompts import Batch
from revlens.training.guard import Guard
from revlens.training.model_parts import probe_batch, shape_of
from revlens.training.state import State, matched
from revlens.training.streams import read_streams, require_gradient


@dataclass
class HiddenStateAnchor(Guard):
    """strength * mean over probes and layers of ||h - h_0||^2 at the last prompt token.

    h_0 is the aligned model's activation. The retain loss of circuit breakers (Zou et al. 2024, arXiv
    2406.04313), here on the harmful probes, whose refusal is to last.

    Attributes:
        batch: the probes, tokenized.
        start: their activations under the aligned model.
        layers: layer indices, in the order of the layer axis.
        strength: nats per squared activation unit.
    """

    batch: Batch
    start: Float[Tensor, "prompt layer d_model"]
    layers: tuple[int, ...]
    strength: float

    @classmethod
    def at(
        cls,
        aligned: nn.Module,
        prompts: Sequence[str],
        strength: float,
        *,
        layers: tuple[int, ...] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> HiddenStateAnchor:
        """Anchor at the aligned model.

        Args:
            aligned: the model at step 0.
            prompts: user messages.
            strength: weight of the term.
            layers: increasing layer indices; all if None.
            tokenizer: of a Hugging Face model; a bridge has its own.

        Raises:
            ProbeError: if there is no prompt.
            GuardError: if there is no tokenizer.
            ConfigError: see `revlens.training.model_parts.probe_batch`.
        """
        layers = tuple(range(shape_of(aligned)[0])) if layers is None else layers
        batch = probe_batch(aligned, prompts, tokenizer)
        with torch.no_grad():
            return cls(batch, read_streams(aligned, batch, layers).detach(), layers, strength)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "start": self.start,
            "tokens": self.batch.tokens,
            "mask": self.batch.mask,
            "layers": torch.tensor(self.layers),
        }

    def load_state_dict(self, state: State) -> None:
        saved, own = matched(self, state), self.state_dict()
        if not all(torch.equal(saved[name], own[name]) for name in ("tokens", "mask", "layers")):
            raise GuardError(
                "Probes or layers of HiddenStateAnchor are not those of the training that is resumed; "
                "make it as there, with the same prompts, tokenizer and layers."
            )
        self.start = saved["start"]

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        streams = require_gradient(read_streams(model, self.batch, self.layers))
        wide = torch.promote_types(streams.dtype, torch.float32)
        return (
            self.strength * (streams.to(wide) - self.start.to(streams.device, wide)).square().sum(-1).mean()
        )
