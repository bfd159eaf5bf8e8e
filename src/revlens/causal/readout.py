"""Vocabulary readout: what v_rev says when it is read through the final norm and the unembedding."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.logit_lens import logit_readout

from revlens.causal.metric import Metric, measure
from revlens.direction import ReversionDirection, isotropic_directions
from revlens.hooks import the_bridge

#: Directions that are read at a time: the logits of one are as wide as the vocabulary.
_N_ROWS = 256


@dataclass(frozen=True)
class VocabularyReadout:
    """Logits of v_rev alone, per layer.

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
        """Ids of the tokens that v_rev promotes most, or demotes most."""
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
    """
    model = the_bridge(model)
    random = isotropic_directions(n_draws, *v_rev.unit.shape, seed=seed)
    # Together, as far as memory allows: a small model's passes cost more to call than to compute.
    parts = random.flatten(0, 1).split(_N_ROWS)
    null = torch.cat([measure(metric, _logits(model, rows)) for rows in parts]).view(random.shape[:2])
    logits = _logits(model, v_rev.unit)
    return VocabularyReadout(logits, measure(metric, logits), null, v_rev.layers)


def _logits(model: TransformerBridge, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    return logit_readout(model, vectors.float()).values.float().cpu()
