"""Histories of activations with known v_rev, drift, noise and what they share, many runs at a time.

Runs are laid along the layer axis, so that the package's own `locate`, `drift` and null draws serve hundreds
of runs in one call. Runs share nothing but the random weights of null draws, which fall on the independent
data of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from revlens.activations import Activations
from revlens.direction.locate import unit_vectors
from stores import manifest_of


def spread(name: str, d_model: int) -> Float[Tensor, " d_model"]:
    """Standard deviations along the axes, of unit total variance: how a Gaussian in R^d spreads.

    ``isotropic``: alike; ``spectrum``: variance as 1 / (1 + axis), as activations have it; ``few``: the last
    four axes alone, where ``spectrum`` has least.
    """
    axes = torch.arange(d_model, dtype=torch.float64)
    variance = {
        "isotropic": torch.ones_like(axes),
        "spectrum": 1 / (1 + axes),
        "few": (axes >= d_model - 4).double(),
    }[name]
    return (variance / variance.sum()).sqrt()


@dataclass(frozen=True)
class PlantedActivations(Activations):
    """Activations in memory, read as captured ones are."""

    values: Mapping[str, Mapping[str, Tensor]]

    def at(self, checkpoint: str, split: str, **selected: object) -> Float[Tensor, "prompt layer d_model"]:
        """See `Activations.at`; nothing can be selected."""
        assert not selected
        return self.values[checkpoint][split]


@dataclass(frozen=True)
class Planted:
    """A sample with its truth.

    Attributes:
        activations: with checkpoints ``reference``, ``aligned`` and ``step-1``, and splits ``direction`` and
            ``drift``.
        gap: the true a(reference) - a(aligned).
        drift: the true a(step-1) - a(aligned).
        n_layers: layers of one run.
    """

    activations: PlantedActivations
    gap: Float[Tensor, "run_layer d_model"]
    drift: Float[Tensor, "run_layer d_model"]
    n_layers: int

    def by_run(self, values: Float[Tensor, "*batch run_layer"]) -> Float[Tensor, "*batch run layer"]:
        """Take the runs apart again."""
        return values.unflatten(-1, (-1, self.n_layers))


@dataclass(frozen=True)
class World:
    """How histories come about.

    Attributes:
        d_model: width.
        n_prompts: prompts in each split.
        n_layers: layers of one run.
        layer_correlation: of everything random, between the layers of a run.
        moves: spread of the directions of gap and drift, drawn apart from each other.
        content: spread of what a prompt puts into every checkpoint alike.
        noise: spread of what a prompt puts into one checkpoint alone.
        gap: length of the true gap.
        drift: length of the true drift, before ``fluctuation``.
        cosine: true cosine of drift and gap, up to the chance cosine of their directions.
        noise_size: root of the total variance of the noise of one prompt.
        fluctuation: length of a random offset of the aligned checkpoint on all prompts, which the fine-tune
            forgets.
    """

    d_model: int = 64
    n_prompts: int = 32
    n_layers: int = 1
    layer_correlation: float = 0.0
    moves: str = "isotropic"
    content: str = "isotropic"
    noise: str = "isotropic"
    gap: float = 1.0
    drift: float = 1.0
    cosine: float = 0.0
    noise_size: float = 2.0
    fluctuation: float = 0.0

    @property
    def signal_to_noise(self) -> float:
        """Squared length of the gap over the expected squared length of its sampling error."""
        return self.gap**2 * self.n_prompts / (2 * self.noise_size**2)

    def sample(self, n_runs: int, seed: int) -> Planted:
        """Draw runs."""
        generator = derive_generator(seed, "planted")

        def normal(kind: str, *lead: int) -> Tensor:
            shared = torch.randn(*lead, n_runs, 1, self.d_model, generator=generator, dtype=torch.float64)
            own = torch.randn(
                *lead, n_runs, self.n_layers, self.d_model, generator=generator, dtype=torch.float64
            )
            mixed = self.layer_correlation**0.5 * shared + (1 - self.layer_correlation) ** 0.5 * own
            return (mixed * spread(kind, self.d_model)).flatten(-3, -2)

        v, w, offset = (unit_vectors(normal(self.moves)) for _ in range(3))
        gap = self.gap * v - self.fluctuation * offset
        drift = (
            self.drift * unit_vectors(self.cosine * v + (1 - self.cosine**2) ** 0.5 * w)
            - self.fluctuation * offset
        )
        means = {"reference": gap, "aligned": torch.zeros_like(gap), "step-1": drift}
        values: dict[str, dict[str, Tensor]] = {name: {} for name in means}
        for split in ("direction", "drift"):
            content = normal(self.content, self.n_prompts)
            for name, mean in means.items():
                values[name][split] = mean + content + self.noise_size * normal(self.noise, self.n_prompts)
        layers = tuple(range(n_runs * self.n_layers))
        splits = {"direction": self.n_prompts, "drift": self.n_prompts}
        activations = PlantedActivations(
            Path("planted"), tuple(means), layers, splits, manifest_of(splits, list(means), layers), values
        )
        return Planted(activations, gap, drift, self.n_layers)
