"""Directional interventions: ablate, clamp or add v_rev, at each layer alone and at all together, against control directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from revlens import hooks
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, SiteError
from revlens.forward import Metric, last_token_passes, measure
from revlens.hooks import Tokens


@dataclass(frozen=True)
class Action:
    """What is done to the projection on a direction.

    Attributes:
        kind: ``ablate``: h - <h, v> v; ``clamp``: h + (c - <h, v>) v, with c the anchor's projection; ``add``: h + dose * gap * v.
        dose: for ``add``, in gaps: 1 is the whole way from the aligned model to the reference.

    Raises:
        ConfigError: if another kind than ``add`` is given a dose.
    """

    kind: Literal["ablate", "clamp", "add"]
    dose: float | None = None

    def __post_init__(self) -> None:
        if (self.kind == "add") != (self.dose is not None):
            raise ConfigError(
                f"Action {self.kind!r} with dose={self.dose}: add needs a dose, in gaps; ablate and clamp take none."
            )

    @property
    def name(self) -> str:
        """``ablate``, ``clamp`` or e.g. ``add +0.5``."""
        return action_label(self.kind, self.dose)


@dataclass(frozen=True)
class Intervention:
    """An action on one direction per layer, ready to be applied to a model.

    Attributes:
        action: what is done.
        unit: the directions, of norm 1.
        gap: what a dose of 1 is at each layer, in activation units.
        layers: of the layer axis.
        anchor: mean activations whose projections ``clamp`` restores, such as the aligned model's.
    """

    action: Action
    unit: Float[Tensor, "layer d_model"]
    gap: Float[Tensor, " layer"]
    layers: tuple[int, ...]
    anchor: Float[Tensor, "layer d_model"]

    def on(
        self,
        model: TransformerBridge,
        layers: Sequence[int],
        *,
        tokens: Tokens = "last_prompt",
        prompt_length: Tensor | None = None,
    ) -> AbstractContextManager[None]:
        """The intervention as a context, at chosen layers of the residual stream after their blocks.

        By default at the last prompt token, where v_rev, its gap and the anchor were measured. Projections of other tokens lie
        elsewhere: to clamp generated tokens to the anchor, say, leaves no language at all (see docs/lab-notes.md).

        Raises:
            HookNameError, SiteError, NonFiniteError: see `revlens.hooks.contexts`.
        """
        directions = dict(zip(self.layers, self.unit, strict=True))
        if self.action.kind == "ablate":
            return hooks.ablate(model, directions, layers=layers, tokens=tokens, prompt_length=prompt_length)
        if self.action.kind == "clamp":
            value = dict(zip(self.layers, (self.anchor * self.unit).sum(-1).tolist(), strict=True))
            return hooks.clamp(
                model, directions, value, layers=layers, tokens=tokens, prompt_length=prompt_length
            )
        assert self.action.dose is not None
        alpha = dict(zip(self.layers, (self.action.dose * self.gap).tolist(), strict=True))
        return hooks.add(model, directions, alpha, layers=layers, tokens=tokens, prompt_length=prompt_length)


@dataclass(frozen=True)
class InterventionEffects:
    """The metric under interventions, per prompt, for v_rev and control directions.

    Attributes:
        values: the metric.
        baseline: the metric of the model as it is.
        directions: ``v_rev``, then the kind of each control (such as ``random``), one entry per direction.
        sites: the layers of each site: each layer alone, then all together.
        actions: what was done.
    """

    values: Float[Tensor, "direction site action prompt"]
    baseline: Float[Tensor, " prompt"]
    directions: tuple[str, ...]
    sites: tuple[tuple[int, ...], ...]
    actions: tuple[Action, ...]

    def effect(self) -> Float[Tensor, "direction site action"]:
        """Change of the metric, mean over prompts."""
        return (self.values - self.baseline).mean(-1)

    def rank_p(self, kind: str) -> Float[Tensor, "site action"]:
        """Two-sided rank p-value of v_rev's effect among the controls of a kind: (1 + those at least as large) / (1 + all).

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
        """A row per direction, site and action: ``direction, draw, site, action, dose, metric, effect``."""
        draws = [self.directions[:i].count(name) for i, name in enumerate(self.directions)]
        index = pd.MultiIndex.from_product(
            [range(len(self.directions)), range(len(self.sites)), range(len(self.actions))]
        )
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
                "metric": self.values.mean(-1).flatten().double().numpy(),
                "effect": self.effect().flatten().double().numpy(),
            }
        )


def action_label(kind: str, dose: float | None) -> str:
    """``"clamp"``, or with a dose ``"add +0.5"``; in tables a missing dose is NaN."""
    return kind if dose is None or math.isnan(dose) else f"{kind} {dose:+g}"


def site_label(layers: Sequence[int]) -> str:
    """``"2"`` for a layer alone, ``"0-3"`` for several."""
    return str(layers[0]) if len(layers) == 1 else f"{min(layers)}-{max(layers)}"


def sites_of(layers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Each layer alone, then all together (where there are several)."""
    alone = tuple((layer,) for layer in layers)
    return alone if len(layers) == 1 else (*alone, tuple(layers))


@torch.no_grad()
def intervene(
    model: TransformerBridge,
    v_rev: ReversionDirection,
    actions: Sequence[Action],
    prompts: Sequence[str],
    metric: Metric,
    *,
    anchor: Float[Tensor, "layer d_model"],
    controls: Mapping[str, Float[Tensor, "draw layer d_model"]] | None = None,
    batch_size: int = 128,
    progress: bool = False,
) -> InterventionEffects:
    """Measure a metric of the first answer token under every action on v_rev, and on control directions of the same dose.

    Interventions act on the last prompt token, where v_rev was estimated.

    Args:
        model: any bridge.
        v_rev: the direction, its gap the unit of doses, for controls too.
        actions: see `Action`.
        prompts: user messages, none of those that v_rev was estimated on.
        metric: of the logits at the last prompt token, such as `RefusalLogitDifference`.
        anchor: see `Intervention`.
        controls: unit directions by kind, such as ``{"random": isotropic_directions(20, ...)}``.
        batch_size: prompts per forward pass.
        progress: show a bar.

    Raises:
        ConfigError: if there is no action, or a kind of controls is called ``v_rev``.
        SiteError: if controls or anchor do not have v_rev's layers and width.
    """
    controls = controls or {}
    if not actions or "v_rev" in controls:
        raise ConfigError(
            "intervene needs at least one action, and control kinds that are not called 'v_rev'."
        )
    for name, tensor in {"anchor": anchor, **controls}.items():
        if tensor.shape[-2:] != v_rev.unit.shape:
            raise SiteError(
                f"{name} has shape {tuple(tensor.shape)}; expected it to end in {tuple(v_rev.unit.shape)}, as v_rev does."
            )
    units = torch.cat([v_rev.unit[None], *(draws.to(v_rev.unit) for draws in controls.values())])
    names = ("v_rev", *(kind for kind, draws in controls.items() for _ in draws))
    sites = sites_of(v_rev.layers)
    passes = last_token_passes(model, prompts, batch_size)

    def measured() -> Float[Tensor, " prompt"]:
        return torch.cat([measure(metric, run()) for run in passes])

    values = torch.empty(len(units), len(sites), len(actions), len(prompts))
    for d, unit in enumerate(tqdm(units, "interventions", disable=not progress)):
        for a, action in enumerate(actions):
            intervention = Intervention(action, unit, v_rev.gap, v_rev.layers, anchor)
            for s, site in enumerate(sites):
                # To hooks, the last token of a prompt whose others are cached is one that comes after it.
                with intervention.on(model, site, tokens="answer"):
                    values[d, s, a] = measured()
    return InterventionEffects(values, measured(), names, sites, tuple(actions))
