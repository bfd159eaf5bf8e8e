"""Activation patching between checkpoints: the same prompts, activations of one checkpoint put into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import false_discovery_control
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import PatchingResult
from transformer_lens.utilities.statistics import derive_generator

from revlens.activations import Sites
from revlens.causal.cells import Cell, Edit, cells_of, site_names
from revlens.causal.clean import Metric, clean_run, equal_lengths, measure, token_tensor
from revlens.causal.prefix import Sweep
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, NonFiniteError, ProbeError, SiteError
from revlens.prompts import encode_prompts

#: ``full``: the donor's activation; ``along``: only its component along v_rev; ``orthogonal``: everything else.
Part = Literal["full", "along", "orthogonal"]


@dataclass(frozen=True)
class PatchSweep:
    """Patches of one component, cell by cell.

    Attributes:
        result: the recipient's metric under each patch ``[layer pos (head) prompt]``, and unpatched as ``baseline``.
        donor: the donor's own metric.
        layers: of the layer axis.
        positions: of the position axis, counted from the end: -1 is the last prompt token.
        component: what was patched.
        part: which part of it.
    """

    result: PatchingResult
    donor: Float[Tensor, " prompt"]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    component: str
    part: Part

    def recovered(self) -> Float[Tensor, "*cell"]:
        """Share of the way from recipient to donor: mean effect over mean difference (1: the donor's metric, 0: no effect).

        A ratio of means, not a mean of ratios: on a single prompt the two may not differ at all.
        """
        return self.result.effect().mean(-1) / self._gap().mean()

    def recovered_interval(
        self, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
    ) -> tuple[Float[Tensor, "*cell"], Float[Tensor, "*cell"]]:
        """Percentile bootstrap interval of `recovered` over prompts."""
        effect, gap = self.result.effect(), self._gap()
        n = len(gap)
        draws = torch.randint(n, (n_resamples, n), generator=derive_generator(seed, "recovered"))
        weights = torch.zeros(n_resamples, n).scatter_add_(1, draws, torch.ones(n_resamples, n)) / n
        ratios = (effect @ weights.T) / (weights @ gap)
        tail = (1 - confidence) / 2
        low, high = torch.quantile(ratios, torch.tensor([tail, 1 - tail]), dim=-1)
        return low, high

    def p_values(self) -> Float[Tensor, "*cell"]:
        """Sign-flip permutation p-value over prompts that the mean effect of a cell is zero."""
        return self.result.permutation_pvalue()

    def significant(self, rate: float = 0.05) -> Bool[Tensor, "*cell"]:
        """Cells with an effect, at a false discovery rate over all cells of the sweep (Benjamini-Hochberg)."""
        p = self.p_values()
        return torch.from_numpy(false_discovery_control(p.flatten().numpy())).view(p.shape) <= rate

    def to_dataframe(self) -> pd.DataFrame:
        """A row per cell: ``layer, position, head, recovered, low, high, effect, p, significant``; head is missing where there is none."""
        low, high = self.recovered_interval()
        columns = {
            "recovered": self.recovered(),
            "low": low,
            "high": high,
            "effect": self.result.effect().mean(-1),
            "p": self.p_values(),
            "significant": self.significant(),
        }
        heads = [None] if low.ndim == 2 else range(low.shape[2])
        index = pd.MultiIndex.from_product([self.layers, self.positions, heads], names=["layer", "position", "head"])
        table = pd.DataFrame({name: values.flatten().numpy() for name, values in columns.items()})
        return pd.concat([index.to_frame(index=False).astype({"head": "float"}), table], axis=1)

    def _gap(self) -> Float[Tensor, " prompt"]:
        assert self.result.baseline is not None
        gap = self.donor - self.result.baseline
        if not gap.mean().abs() > 0:
            raise NonFiniteError("Donor and recipient have equal mean metrics, so there is nothing to recover: are they one checkpoint?")
        return gap


def patch_between(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    *,
    sites: Sites | None = None,
    last: int | None = 1,
    part: Part = "full",
    v_rev: ReversionDirection | None = None,
    batch_size: int = 64,
) -> PatchSweep:
    """Run the recipient with the donor's activation at one layer and position at a time, for every layer and position.

    Each patch replaces the activation of all prompts at once: h + P(d - h), with d the donor's and P the identity, the
    projection onto v_rev (``along``) or away from it (``orthogonal``).

    Args:
        donor: the checkpoint that activations are taken from.
        recipient: the checkpoint that they are put into.
        prompts: user messages, the same for both.
        metric: of the logits at the last prompt token, such as `Openings`.
        sites: component and layers; resid_post of every layer if None.
        last: how many of the last prompt tokens, one at a time; as many as all prompts have if None.
        part: see `Part`.
        v_rev: for ``along`` and ``orthogonal``.
        batch_size: see `revlens.causal.prefix.Sweep`.

    Raises:
        ConfigError: if ``part`` and ``v_rev`` do not go together, or the models differ in shape.
        SiteError, HookNameError: if a layer or component does not exist, or v_rev lacks a layer.
        ProbeError: if there are no prompts, or one has fewer than ``last`` tokens.
        NonFiniteError: if an activation of the donor is not finite.
    """
    sites = sites or Sites()
    layers = sites.resolve(recipient.cfg.n_layers)
    _check_part(part, v_rev, layers, recipient.cfg.d_model)
    return _sweep(donor, recipient, prompts, metric, sites.component, layers, None, last, part, v_rev, batch_size)


def patch_heads_between(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    *,
    layers: tuple[int, ...] | None = None,
    last: int | None = 1,
    batch_size: int = 64,
) -> PatchSweep:
    """`patch_between` for the output of single attention heads (``attn.hook_z``), before the output projection."""
    chosen = Sites(layers=layers).resolve(recipient.cfg.n_layers)
    return _sweep(donor, recipient, prompts, metric, "z", chosen, range(recipient.cfg.n_heads), last, "full", None, batch_size)


def _sweep(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    component: str,
    layers: tuple[int, ...],
    heads: range | None,
    last: int | None,
    part: Part,
    v_rev: ReversionDirection | None,
    batch_size: int,
) -> PatchSweep:
    _check_same_shape(donor, recipient)
    if not prompts:
        raise ProbeError("No prompts to patch.")
    rows = encode_prompts(recipient.tokenizer, prompts)
    shortest = min(range(len(rows)), key=lambda i: len(rows[i]))
    last = len(rows[shortest]) if last is None else last
    if not 1 <= last <= len(rows[shortest]):
        raise ProbeError(f"last={last} must lie between 1 and {len(rows[shortest])}: prompt {prompts[shortest]!r} has no more tokens.")
    positions = tuple(range(-last, 0))
    taken, donor_metric = _donor_activations(donor, rows, prompts, metric, site_names(donor, layers, component), last, batch_size)
    units = {} if v_rev is None else dict(zip(v_rev.layers, v_rev.unit.float(), strict=True))
    cells = cells_of(layers, positions, heads)
    swept = Sweep(recipient, component, cells, _replacing(taken, units, part), metric, batch_size).run(rows)
    shape = (len(layers), last) if heads is None else (len(layers), last, len(heads))
    axes = ["layer", "pos", "head"][: len(shape)]
    index = pd.DataFrame([cell[: len(shape)] for cell in cells], columns=axes)
    values = swept.values.view(*shape, len(rows))
    result = PatchingResult(values, axes, index, ["metric"], reduced=False, baseline=swept.baseline)
    return PatchSweep(result, donor_metric, layers, positions, component, part)


@torch.no_grad()
def _donor_activations(
    donor: TransformerBridge,
    rows: Sequence[Sequence[int]],
    prompts: Sequence[str],
    metric: Metric,
    names: dict[int, str],
    last: int,
    batch_size: int,
) -> tuple[dict[int, Float[Tensor, "prompt pos *d"]], Float[Tensor, " prompt"]]:
    """The last positions of every prompt at each layer, and the donor's metric."""
    values = torch.empty(len(rows))
    taken: dict[int, Tensor] = {}
    for indices in equal_lengths(rows, batch_size):
        run = clean_run(donor, token_tensor(donor, rows, indices), names.values(), last)
        values[indices] = measure(metric, run.logits)
        for layer, name in names.items():
            kept = run.kept[name]
            if layer not in taken:
                taken[layer] = kept.new_empty(len(rows), *kept.shape[1:])
            taken[layer][indices] = kept
    for layer, activations in taken.items():
        finite = activations.isfinite().flatten(1).all(1)
        if not finite.all():
            raise NonFiniteError(
                f"The donor's activation at layer {layer} is not finite on prompt {prompts[int((~finite).nonzero()[0])]!r}."
            )
    return taken, values


def _replacing(taken: dict[int, Float[Tensor, "prompt pos *d"]], units: dict[int, Float[Tensor, " d_model"]], part: Part) -> Edit:
    def edit(h: Tensor, cell: Cell, prompts: Sequence[int]) -> Tensor:
        there = taken[cell.layer][list(prompts), cell.position]
        if cell.head is not None:
            there = there[:, cell.head]
        there = there.to(h)
        if part == "full":
            return there
        unit = units[cell.layer].to(h.device)
        wide = (there - h).float()
        along = (wide @ unit)[:, None] * unit
        return h + (along if part == "along" else wide - along).to(h.dtype)

    return edit


def _check_part(part: str, v_rev: ReversionDirection | None, layers: tuple[int, ...], d_model: int) -> None:
    if part not in get_args(Part):
        raise ConfigError(f"Unknown part {part!r}; expected one of {', '.join(get_args(Part))}.")
    if (part == "full") != (v_rev is None):
        raise ConfigError(f"part={part!r} {'takes no' if part == 'full' else 'needs a'} v_rev.")
    if v_rev is not None and (not set(layers) <= set(v_rev.layers) or v_rev.unit.shape[1] != d_model):
        raise SiteError(
            f"v_rev is for layers {v_rev.layers} of width {v_rev.unit.shape[1]}; layers {layers} of width {d_model} are patched."
        )


def _check_same_shape(donor: TransformerBridge, recipient: TransformerBridge) -> None:
    for name in ("n_layers", "d_model", "n_heads", "d_vocab"):
        there, here = getattr(donor.cfg, name), getattr(recipient.cfg, name)
        if there != here:
            raise ConfigError(f"The donor has {name}={there}, the recipient {here}: these are not two checkpoints of one model.")
