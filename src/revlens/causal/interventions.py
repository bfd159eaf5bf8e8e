"""Intervene along v_rev at each layer alone and at all together, against control directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from revlens.causal.displacement import measured_on
from revlens.causal.intervention import Action, Intervention
from revlens.causal.intervention_effects import InterventionEffects
from revlens.causal.metric import Metric, measure
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, SiteError
from revlens.forward import last_token_passes
from revlens.hooks import the_bridge


@torch.no_grad()
def intervene(
    model: nn.Module,
    v_rev: ReversionDirection,
    actions: Sequence[Action],
    prompts: Sequence[str],
    metric: Metric,
    *,
    clamp_mean: Float[Tensor, "layer d_model"],
    controls: Mapping[str, Float[Tensor, "draw layer d_model"]] | None = None,
    batch_size: int = 128,
    progress: bool = False,
) -> InterventionEffects:
    """Measure a metric of the first answer token under every action on v_rev, and under matched controls.

    Interventions act on the last prompt token, where v_rev is estimated. Where an action on v_rev moves the
    stream by some mean displacement, its controls add just as much along their own directions (see
    `Intervention.matched`).

    Args:
        model: any bridge.
        v_rev: the direction, its gap the unit of doses.
        actions: see `Action`.
        prompts: user messages, none of those that v_rev was estimated on.
        metric: of the logits at the last prompt token, such as `RefusalLogitDifference`.
        clamp_mean: see `Intervention`.
        controls: unit directions by kind, such as ``{"random": isotropic_directions(20, ...)}``.
        batch_size: prompts per forward pass.
        progress: show a bar.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ConfigError: if there is no action, a kind of controls is called ``v_rev``, or the batch size is below
            1.
        SiteError: if controls or the clamp mean do not have v_rev's layers and width.
    """
    model = the_bridge(model)
    controls = controls or {}
    if not actions or "v_rev" in controls:
        raise ConfigError(
            "intervene needs at least one action, and control kinds that are not called 'v_rev'."
        )
    for name, tensor in {"clamp_mean": clamp_mean, **controls}.items():
        if tensor.shape[-2:] != v_rev.unit.shape:
            raise SiteError(
                f"{name} has shape {tuple(tensor.shape)}; expected it to end in {tuple(v_rev.unit.shape)}, "
                "as v_rev does."
            )
    units = torch.cat([v_rev.unit[None], *(draws.to(v_rev.unit) for draws in controls.values())])
    names = ("v_rev", *(kind for kind, draws in controls.items() for _ in draws))
    sites = _sites(v_rev.layers)
    passes = last_token_passes(model, prompts, batch_size)

    def measured() -> Float[Tensor, " prompt"]:
        return torch.cat([measure(metric, run()) for run in passes])

    values = torch.empty(len(units), len(sites), len(actions), len(prompts))
    moved = torch.zeros(len(sites), len(actions), len(v_rev.layers), dtype=torch.float64)
    for d, unit in enumerate(tqdm(units, "interventions", disable=not progress)):
        for a, action in enumerate(actions):
            intervention = Intervention(action, v_rev.unit, v_rev.gap, v_rev.layers, clamp_mean)
            for s, site in enumerate(sites):
                if d == 0:
                    with measured_on(model, intervention, site) as latest:
                        done = [(measure(metric, run()), latest()) for run in passes]
                    values[d, s, a] = torch.cat([metrics for metrics, _ in done])
                    moved[s, a] = torch.cat([moves for _, moves in done]).mean(0)
                    continue
                control = intervention.matched(unit, moved[s, a])
                with control.on(model, site, tokens="answer"):
                    values[d, s, a] = measured()
    return InterventionEffects(values, measured(), names, sites, tuple(actions), moved)


def _sites(layers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Each layer alone, then all together (where there are several)."""
    alone = tuple((layer,) for layer in layers)
    return alone if len(layers) == 1 else (*alone, tuple(layers))
