"""The result of interventions: the metric under every action, on v_rev and on control directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from revlens.causal.intervention import Action
from revlens.errors import ConfigError


@dataclass(frozen=True)
class InterventionEffects:
    """The metric under interventions, per prompt, for v_rev and control directions.

    Attributes:
        values: the metric.
        baseline: the metric of the model as it is.
        directions: ``v_rev``, then the kind of each control (such as ``random``), one entry per direction.
        sites: the layers of each site: each layer alone, then all together.
        actions: what was done.
        displacement: how far each action on v_rev moves activations along it, mean over prompts, in
            activation units; 0 at the layers that a site does not have. Controls move as far along their own
            directions.
    """

    values: Float[Tensor, "direction site action prompt"]
    baseline: Float[Tensor, " prompt"]
    directions: tuple[str, ...]
    sites: tuple[tuple[int, ...], ...]
    actions: tuple[Action, ...]
    displacement: Float[Tensor, "site action layer"]

    def effect(self) -> Float[Tensor, "direction site action"]:
        """Change of the metric, mean over prompts."""
        return (self.values - self.baseline).mean(-1)

    def rank_p(self, kind: str) -> Float[Tensor, "site action"]:
        """Two-sided rank p-value of v_rev's effect among the controls of a kind.

        It is (1 + controls with at least as large an effect) / (1 + controls).

        Raises:
            ConfigError: if there are no controls of that kind.
        """
        of_kind = [i for i, name in enumerate(self.directions) if name == kind]
        if not of_kind or kind == "v_rev":
            raise ConfigError(
                f"No controls of kind {kind!r}; there are {sorted(set(self.directions) - {'v_rev'})}."
            )
        effect = self.effect().abs()
        return (1 + (effect[of_kind] >= effect[0]).sum(0)) / (1 + len(of_kind))

    def to_dataframe(self) -> pd.DataFrame:
        """A row per direction, site and action.

        Columns are ``direction, draw, site, action, dose, displacement, metric, effect``, with the mean
        displacement over the site's layers.
        """
        draws = [self.directions[:i].count(name) for i, name in enumerate(self.directions)]
        index = pd.MultiIndex.from_product(
            [range(len(self.directions)), range(len(self.sites)), range(len(self.actions))]
        )
        n_layers = torch.tensor([len(site) for site in self.sites])
        moved = self.displacement.sum(-1) / n_layers[:, None]
        d, s, a = (index.get_level_values(i) for i in range(3))
        return pd.DataFrame(
            {
                "direction": np.array(self.directions)[d],
                "draw": np.array(draws)[d],
                "site": np.array([site_label(site) for site in self.sites])[s],
                "action": np.array([action.kind for action in self.actions])[a],
                "dose": np.array([np.nan if action.dose is None else action.dose for action in self.actions])[
                    a
                ],
                "displacement": moved[s, a].numpy(),
                "metric": self.values.mean(-1).flatten().double().numpy(),
                "effect": self.effect().flatten().double().numpy(),
            }
        )


def site_label(layers: Sequence[int]) -> str:
    """``"2"`` for a layer alone, ``"0-3"`` for several."""
    return str(layers[0]) if len(layers) == 1 else f"{min(layers)}-{max(layers)}"
