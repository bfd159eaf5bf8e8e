"""Features whose decoder lies nearest to a direction: sparse autoencoders', or a model's own neurons."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from revlens.direction import unit_vectors
from revlens.errors import ConfigError, NonFiniteError


@dataclass(frozen=True)
class NearestFeatures:
    """The features whose decoder has the largest cosine with a direction, of either sign.

    Attributes:
        features: their rows in the decoder, the nearest first.
        cosines: with the direction; a negative one writes against it.
        null: the largest absolute cosine of each random direction with any feature.
    """

    features: Int[Tensor, " k"]
    cosines: Float[Tensor, " k"]
    null: Float[Tensor, " draw"]

    def p_values(self) -> Float[Tensor, " k"]:
        """Of each feature, against the nearest feature of random directions.

        It is (1 + random directions with a feature at least as near) / (1 + random directions): the search
        over all features is in the null as well.
        """
        nearer = (self.null >= self.cosines.abs()[:, None]).sum(1)
        return (1 + nearer) / (1 + len(self.null))

    def to_dataframe(self) -> pd.DataFrame:
        """A row per feature: ``rank, feature, cosine, p, null_mean, null_high``.

        The last is the null's 95th percentile.
        """
        return pd.DataFrame(
            {
                "rank": range(1, len(self.features) + 1),
                "feature": self.features.tolist(),
                "cosine": self.cosines.tolist(),
                "p": self.p_values().tolist(),
                "null_mean": float(self.null.mean()),
                "null_high": float(torch.quantile(self.null, 0.95)),
            }
        )


def nearest_features(
    decoder: Float[Tensor, "feature d_model"],
    direction: Float[Tensor, " d_model"],
    *,
    null: Float[Tensor, "draw d_model"],
    k: int = 10,
) -> NearestFeatures:
    """Find the features that write most nearly along a direction.

    The decoder may be of any sparse autoencoder that was trained on the stream of the direction's layer
    (``W_dec`` of sae-lens), or ``model.blocks[l].mlp.W_out``, whose rows are what neurons write. That a
    feature points along v_rev does not say that it is active, or that it moves anything.

    Args:
        decoder: a row for each feature.
        direction: of any length.
        null: random directions of the same layer.
        k: how many features; all if there are fewer.

    Raises:
        ConfigError: if the decoder, the direction and the null differ in width, there is no random direction,
            or k is below 1.
        NonFiniteError: if a row of the decoder, the direction or the null has no length or is not finite.
    """
    widths = {decoder.shape[-1], direction.shape[-1], null.shape[-1]}
    if len(widths) > 1 or len(null) == 0 or k < 1:
        raise ConfigError(
            "Decoder, direction and null must be of one width, and k and the null's draws at least 1; got "
            f"shapes {tuple(decoder.shape)}, {tuple(direction.shape)} and {tuple(null.shape)}, and k={k}."
        )
    rows, along, random = (
        _units(name, vectors)
        for name, vectors in {"decoder": decoder, "direction": direction[None], "null": null}.items()
    )
    cosines = rows @ along[0]
    nearest = cosines.abs().topk(min(k, len(cosines))).indices
    return NearestFeatures(nearest, cosines[nearest], torch.stack([(rows @ u).abs().max() for u in random]))


def _units(name: str, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    units = unit_vectors(vectors.detach().double().cpu())
    if not units.isfinite().all():
        row = int((~units.isfinite().all(-1)).nonzero()[0])
        raise NonFiniteError(
            f"Row {row} of the {name} is zero or not finite, so it has no direction; leave such rows out."
        )
    return units
