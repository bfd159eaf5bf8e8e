"""The Jacobian lens of the last prompt token: what the later layers make of a direction, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens, get_sparse_decomposition

from revlens.errors import ConfigError, ProbeError
from revlens.forward import last_token_passes
from revlens.hooks import hooked, point_name, record, the_bridge


def last_token_lens(model: nn.Module, prompts: Sequence[str], *, batch_size: int = 32) -> JacobianLens:
    """Fit TransformerLens' Jacobian lens where v_rev is measured: at the last prompt token.

    Its matrix of a layer is the mean over prompts of d(stream after the last layer) / d(stream after this
    layer), both at the last prompt token, in float32. `JacobianLens.fit` averages over the tokens of plain
    texts instead, and adds up what a token does to all later ones. Keys and values of earlier tokens do not
    depend on the last one, so they are computed once, and only one token goes backward: as often as the
    stream is wide.

    Args:
        model: any bridge with raw weights whose last layer's output goes to the final norm and unembedding.
        prompts: user messages.
        batch_size: prompts per pass.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: if the model has one layer only or TransformerLens has no Jacobian lens for it; also see
            `revlens.context.prompt_rows`.

    Source: Gurnee et al. (2026), Verbalizable Representations Form a Global Workspace in Language Models.
    """
    model = the_bridge(model)
    if not prompts:
        raise ProbeError("No prompts to fit a Jacobian lens on.")
    if model.cfg.n_layers < 2:
        raise ConfigError("A model of one layer has no Jacobian lens: there is no layer before its last.")
    names = [point_name(layer, "resid_post") for layer in range(model.cfg.n_layers)]
    d_model, sources = model.cfg.d_model, range(model.cfg.n_layers - 1)
    total = torch.zeros(len(sources), d_model, d_model)
    for run in last_token_passes(model, prompts, batch_size):
        with torch.enable_grad(), hooked(model, [(names[0], _rooted)]), record(model, names) as streams:
            run()
            total += _summed_jacobian([streams[name] for name in names])
    lens = JacobianLens(
        {layer: total[layer] / len(prompts) for layer in sources}, n_prompts=len(prompts), d_model=d_model
    )
    try:
        return lens.validate_model(model)
    except ValueError as error:
        raise ConfigError(f"TransformerLens has no Jacobian lens for this model: {error}") from error


def _rooted(activation: Tensor, hook: object) -> Tensor:
    """The activation, from which gradients are taken even where no weight before it is trained."""
    return activation if activation.requires_grad else activation.requires_grad_()


def _summed_jacobian(
    streams: Sequence[Float[Tensor, "batch pos d_model"]],
) -> Float[Tensor, "source d_model d_model"]:
    """Sum over the batch of the last stream's derivative in each earlier one, at the last token."""
    *sources, target = streams
    d_model = target.shape[-1]
    jacobian = torch.zeros(len(sources), d_model, d_model)
    for i in range(d_model):
        gradients = torch.autograd.grad(target[:, -1, i].sum(), sources, retain_graph=i < d_model - 1)
        for layer, gradient in enumerate(gradients):
            jacobian[layer, i] = gradient[:, -1].sum(0).float().cpu()
    return jacobian


@dataclass(frozen=True)
class TokenParts:
    """A direction as a sum of few tokens' lens vectors.

    Attributes:
        tokens: ids of the tokens, in the order in which they were taken.
        coordinates: of their lens vectors, all positive, for a direction of length 1.
        explained: share of the squared length that lies in the span of the tokens that were taken.
        null: the same of random directions.
    """

    tokens: Int[Tensor, " part"]
    coordinates: Float[Tensor, " part"]
    explained: float
    null: Float[Tensor, " draw"]


def token_parts(
    model: nn.Module,
    lens: JacobianLens,
    direction: Float[Tensor, " d_model"],
    layer: int,
    *,
    null: Float[Tensor, "draw d_model"],
    k: int = 10,
) -> TokenParts:
    """Decompose a direction into at most k tokens' Jacobian lens vectors (by TransformerLens).

    The lens vector of a token is the direction at this layer that moves its logit most, to first order and
    before the final norm. There are more tokens than dimensions, so that k of them explain much of any
    direction: read ``explained`` beside its null only. Parts are added and never taken away; decompose the
    reverse of the direction for what it speaks against.

    Args:
        model: whose unembedding the lens reads through.
        lens: of the model, see `last_token_lens`.
        direction: any vector of the layer's stream.
        layer: one that the lens has.
        null: random directions.
        k: how many tokens at most.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ValueError: by TransformerLens, if the lens is of another model or lacks the layer, or k is below 1.

    Source: Gurnee et al. (2026), see `last_token_lens`.
    """
    bridge: TransformerBridge = the_bridge(model)
    dictionary = lens.lens_vector_dictionary(bridge, layer)
    lens.clear_device_cache()  # one dictionary is as large as the unembedding

    def decompose(vector: Tensor) -> tuple[Tensor, Tensor, float]:
        unit = (vector / vector.norm()).float().to(dictionary.device)
        parts = get_sparse_decomposition(unit, dictionary, k)
        return parts.support, parts.coordinates, float(parts.j_space_component.square().sum())

    tokens, coordinates, explained = decompose(direction)
    null_shares = torch.tensor([decompose(draw)[2] for draw in null])
    return TokenParts(tokens.cpu(), coordinates.cpu(), explained, null_shares)
