"""How far an intervention moves the stream, so that its controls can move it as far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens import hooks
from revlens.activations import Sites
from revlens.causal.intervention import Intervention
from revlens.forward import last_token_passes


@torch.no_grad()
def displacement(
    model: TransformerBridge,
    intervention: Intervention,
    prompts: Sequence[str],
    layers: Sequence[int],
    *,
    batch_size: int = 128,
) -> Float[Tensor, " layer"]:
    """How far an intervention moves the last prompt token along its directions, mean over prompts.

    It is signed, in activation units. At a layer after others that are moved too, it is what is left to do
    there; at layers of the intervention that are not among ``layers`` it is 0.

    Args:
        model: any bridge.
        intervention: what is done.
        prompts: user messages.
        layers: where it is done, together.
        batch_size: prompts per forward pass.

    Raises:
        ConfigError: if the batch size is below 1.
        HookNameError, SiteError, NonFiniteError: see `Intervention.on`.
    """
    moved = []
    with measured_on(model, intervention, layers) as latest:
        for run in last_token_passes(model, prompts, batch_size):
            run()
            moved.append(latest())
    return torch.cat(moved).mean(0)


@contextmanager
def measured_on(
    model: TransformerBridge, intervention: Intervention, layers: Sequence[int]
) -> Iterator[Callable[[], Float[Tensor, "prompt layer"]]]:
    """The intervention at the last token of every pass of `last_token_passes`.

    Yields a function that says how far the latest pass was moved, see `displacement`.
    """
    resolved = Sites(layers=tuple(layers)).resolve(model.cfg.n_layers)
    points = {layer: hooks.point_name(layer, "resid_post") for layer in resolved}
    index = [intervention.layers.index(layer) for layer in layers]

    def latest() -> Float[Tensor, "prompt layer"]:
        moves = intervention.moves({layer: before[name] for layer, name in points.items()})
        everywhere = torch.zeros(len(moves), len(intervention.layers), dtype=moves.dtype)
        everywhere[:, index] = moves
        return everywhere

    # Hooks run in the order in which they are attached: what is recorded is not moved yet. The prompt's other
    # tokens are cached, so hooks take its last one for the first generated token.
    with (
        hooks.record(model, list(points.values()), select=lambda h: h[:, -1]) as before,
        intervention.on(model, layers, tokens="answer"),
    ):
        yield latest
