"""Vocabulary readout: what a direction says when it is read through the final norm and the unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens, logit_readout

from revlens.causal.metric import Metric, measure
from revlens.direction import ReversionDirection, isotropic_directions
from revlens.errors import ConfigError, SiteError
from revlens.hooks import the_bridge

#: Directions that are read at a time: the logits of one are as wide as the vocabulary.
_N_ROWS = 256


@dataclass(frozen=True)
class VocabularyReadout:
    """Logits of a direction alone, per layer, under some lens.

    Attributes:
        logits: of every token.
        score: the metric of these logits, e.g. engaging minus refusal, in nats.
        null: the same of random directions.
        layers: layer indices.
    """

    logits: Float[Tensor, "layer d_vocab"]
    score: Float[Tensor, " layer"]
    null: Float[Tensor, "draw layer"]
    layers: tuple[int, ...]

    def top(self, k: int = 10, *, bottom: bool = False) -> Int[Tensor, "layer k"]:
        """Ids of the tokens that the direction promotes most, or demotes most."""
        return self.logits.topk(k, dim=-1, largest=not bottom).indices

    def p_values(self) -> Float[Tensor, " layer"]:
        """Two-sided rank p-value of each score among random directions.

        It is (1 + random directions at least as far from their mean) / (1 + random directions).
        """
        centre = self.null.mean(0)
        return (1 + ((self.null - centre).abs() >= (self.score - centre).abs()).sum(0)) / (1 + len(self.null))

    def to_dataframe(self) -> pd.DataFrame:
        """A row per layer: ``layer, score, null_mean, null_low, null_high, p``.

        Low to high holds the central 95 % of the null.
        """
        low, high = torch.quantile(self.null, torch.tensor([0.025, 0.975], dtype=self.null.dtype), dim=0)
        columns = {
            "score": self.score,
            "null_mean": self.null.mean(0),
            "null_low": low,
            "null_high": high,
            "p": self.p_values(),
        }
        return pd.DataFrame(
            {"layer": self.layers} | {name: values.tolist() for name, values in columns.items()}
        )


def vocabulary_readout(
    model: nn.Module, v_rev: ReversionDirection, metric: Metric, *, n_draws: int = 1000, seed: int = 0
) -> VocabularyReadout:
    """Read v_rev through the model's final norm and unembedding (logit lens, by TransformerLens).

    The final norm sets the length: v_rev is read as if it were the whole residual stream. A LayerNorm
    subtracts the mean of its entries first.

    Args:
        model: whose final norm and unembedding are used.
        v_rev: the direction.
        metric: of logits ``[batch d_vocab]``, such as `RefusalLogitDifference`.
        n_draws: random directions in the null.
        seed: draws them.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ConfigError: if the metric does not give one number per row.
        SiteError: if v_rev is not as wide as the model.
    """
    null = isotropic_directions(n_draws, *v_rev.unit.shape, seed=seed)
    return direction_readout(model, v_rev.unit, metric, layers=v_rev.layers, null=null)


def direction_readout(
    model: nn.Module,
    directions: Float[Tensor, "layer d_model"],
    metric: Metric,
    *,
    layers: tuple[int, ...],
    null: Float[Tensor, "draw layer d_model"],
    lens: JacobianLens | None = None,
) -> VocabularyReadout:
    """Read any direction of each layer through the final norm and the unembedding, beside a null.

    Without a lens this is the logit lens: a direction is read as if the stream kept it up to the end. With
    one it is carried there first, by the mean Jacobian of the layers in between (see `last_token_lens`).

    Args:
        model: whose final norm and unembedding are used.
        directions: of any length; only their direction counts.
        metric: of logits ``[batch d_vocab]``, such as `RefusalLogitDifference`.
        layers: indices of the layer axis.
        null: random directions, such as `isotropic_directions` or those of
            `revlens.direction.nulls.covariance_directions`.
        lens: carries directions to the last layer; None leaves them as they are.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        SiteError: see `check_null`; also if the lens has no Jacobian of a layer before the last.
        ConfigError: if the metric does not give one number per row, or the lens is of another model.

    Source: nostalgebraist (2020), interpreting GPT: the logit lens; Gurnee et al. (2026), Verbalizable
    Representations Form a Global Workspace in Language Models.
    """
    model = the_bridge(model)
    check_null(model, directions, layers, null)

    def arriving(vectors: Float[Tensor, "*draw layer d_model"]) -> Float[Tensor, "*draw layer d_model"]:
        return vectors if lens is None else carried(model, lens, vectors, layers)

    # Together, as far as memory allows: a small model's passes cost more to call than to compute.
    parts = arriving(null).flatten(0, 1).split(_N_ROWS)
    scores = torch.cat([measure(metric, _logits(model, rows)) for rows in parts]).view(null.shape[:2])
    logits = _logits(model, arriving(directions))
    return VocabularyReadout(logits, measure(metric, logits), scores, layers)


def carried(
    model: nn.Module,
    lens: JacobianLens,
    vectors: Float[Tensor, "*draw layer d_model"],
    layers: Sequence[int],
) -> Float[Tensor, "*draw layer d_model"]:
    """Vectors of each layer as they reach the last layer's output, to first order, in float32.

    Those of the last layer are there already.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ConfigError: if the lens is of another model.
        SiteError: if the lens has no Jacobian of a layer before the last.
    """
    model = the_bridge(model)
    try:
        lens.validate_model(model)
    except ValueError as error:
        raise ConfigError(f"The Jacobian lens is not one of this model: {error}") from error
    last = model.cfg.n_layers - 1
    if missing := sorted(set(layers) - {last} - set(lens.source_layers)):
        raise SiteError(
            f"The Jacobian lens has no layer {missing[0]}, only {lens.source_layers}; fit it on that one too."
        )
    at_layer = [
        vectors[..., i, :].float() if layer == last else lens.transport(vectors[..., i, :], layer)
        for i, layer in enumerate(layers)
    ]
    return torch.stack(at_layer, dim=-2)


def check_null(
    model: TransformerBridge,
    directions: Float[Tensor, "layer d_model"],
    layers: Sequence[int],
    null: Float[Tensor, "draw layer d_model"],
) -> None:
    """Check that random directions stand beside those that are read.

    Raises:
        SiteError: if the directions are not as wide as the model, layers or random directions do not go with
            them, or there is no random direction.
    """
    shape = tuple(directions.shape)
    if shape[-1] != model.cfg.d_model:
        raise SiteError(
            f"Directions of width {shape[-1]} are of another model: its width is {model.cfg.d_model}."
        )
    if len(layers) != len(directions) or null.shape[1:] != directions.shape or len(null) == 0:
        raise SiteError(
            f"Directions of shape {shape} need as many layers and at least one random direction of that "
            f"shape; got layers={tuple(layers)} and a null of shape {tuple(null.shape)}."
        )


def _logits(model: TransformerBridge, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    return logit_readout(model, vectors.float()).values.float().cpu()
