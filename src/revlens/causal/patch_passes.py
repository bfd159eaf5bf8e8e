"""Patches, many to a short pass: each has rows of its own, which join at the block that it patches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.causal.metric import Metric, measure
from revlens.causal.patch_sites import Patch, PatchSite, patch_rows, patched_points
from revlens.forward import Obstacle, ShortPasses, last_logits, unpadded_batches
from revlens.hooks import Hook


class FallbackWarning(UserWarning):
    """Each patch runs as a forward pass over whole prompts: the same numbers, more slowly."""


@dataclass(frozen=True)
class PatchMetrics:
    """What the patches of some prompts measure.

    Attributes:
        values: the metric under each patch.
        baseline: the metric of the unpatched run.
        rounding: how far an empty patch, one that is computed like the others and changes nothing, moves the
            metric at most.
    """

    values: Float[Tensor, "site prompt"]
    baseline: Float[Tensor, " prompt"]
    rounding: float


@dataclass(frozen=True)
class Patcher:
    """Patches of one component, one site at a time.

    Attributes:
        model: what is patched.
        component: one of `revlens.activations.COMPONENTS`, or ``z`` for the outputs of attention heads.
        sites: where.
        patch: what is put there.
        metric: what is measured.
        batch_size: no pass is wider than an unpatched run of so many prompts, neither in tokens nor in keys
            and values.
    """

    model: TransformerBridge
    component: str
    sites: Sequence[PatchSite]
    patch: Patch
    metric: Metric
    batch_size: int

    @torch.no_grad()
    def run(self, rows: Sequence[Sequence[int]]) -> PatchMetrics:
        """Patch prompts, given as token ids.

        Raises:
            HookNameError: if the model has no such component.
            ConfigError: if the batch size is below 1, or the metric does not give one number per row.

        Warns:
            FallbackWarning: if the model does not allow short passes, or they change its logits where nothing
                is patched; each patch is then a forward pass over whole prompts.
        """
        values, baseline, rounding = torch.empty(len(self.sites), len(rows)), torch.empty(len(rows)), 0.0
        measured_by = self._short_passes
        for prompts, tokens in unpadded_batches(self.model, rows, self.batch_size):
            try:
                batch = measured_by(tokens, prompts)
            except Obstacle as obstacle:
                message = (
                    f"{self.model.cfg.architecture}: {obstacle}. "
                    "Each patch is a forward pass over whole prompts instead."
                )
                warnings.warn(message, FallbackWarning, stacklevel=2)
                measured_by = self._whole_passes
                batch = measured_by(tokens, prompts)
            values[:, prompts], baseline[prompts] = batch.values, batch.baseline
            rounding = max(rounding, batch.rounding)
        return PatchMetrics(values, baseline, rounding)

    @cached_property
    def _points(self) -> dict[int, str]:
        return patched_points(self.model, {site.layer for site in self.sites}, self.component)

    def _entry(self, layer: int) -> str:
        """Where rows join: after the block if its output is patched, before it for every other component."""
        return f"blocks.{layer}.hook_{'out' if self.component == 'resid_post' else 'in'}"

    def _patching(self, rows: Mapping[PatchSite, slice], prompts: Sequence[int]) -> Hook:
        return lambda activation, hook: patch_rows(activation, rows, self.patch, prompts)

    def _whole_passes(self, tokens: Int[Tensor, "prompt pos"], prompts: Sequence[int]) -> PatchMetrics:
        baseline = measure(self.metric, last_logits(self.model, tokens))
        values = []
        for site in self.sites:
            patching = self._patching({site: slice(None)}, prompts)
            with self.model.hooks(fwd_hooks=[(self._points[site.layer], patching)]):
                values.append(measure(self.metric, last_logits(self.model, tokens)))
        return PatchMetrics(torch.stack(values), baseline, 0.0)

    def _short_passes(self, tokens: Int[Tensor, "prompt pos"], prompts: Sequence[int]) -> PatchMetrics:
        # Looked up first: a component that the model lacks is an error, and not an obstacle.
        entries = [self._entry(layer) for layer in self._points]
        first = min(site.position for site in self.sites)
        passes = ShortPasses.after_unpatched_run(self.model, tokens, entries, -first)
        baseline = measure(self.metric, passes.unpatched.logits)

        # Site 0 is the empty patch's. It goes through all that the others go through, and shows whether
        # to trust them.
        sites = [PatchSite(min(self._points), first), *self.sites]
        values = torch.empty(len(sites), len(prompts))
        n_layers = len(passes.layers)
        for chosen in _plan(sites, len(prompts), tokens.shape[1], n_layers, self.batch_size):
            logits = self._short_pass([(sites[i], i == 0) for i in chosen], passes, prompts)
            if 0 in chosen:
                passes.check_unpatched(logits[chosen.index(0)])
            values[chosen] = measure(self.metric, logits.flatten(0, 1)).view(len(chosen), len(prompts))
        return PatchMetrics(values[1:], baseline, float((values[0] - baseline).abs().max()))

    def _short_pass(
        self, sites: Sequence[tuple[PatchSite, bool]], passes: ShortPasses, prompts: Sequence[int]
    ) -> Float[Tensor, "site prompt d_vocab"]:
        """Logits under each patch; sites come by increasing layer, each with whether its patch is empty."""
        copies: dict[str, int] = {}
        edits: list[tuple[str, Hook]] = []
        n_rows = 1  # row 0 carries the pass
        for layer, group in groupby(sites, key=lambda site_and_empty: site_and_empty[0].layer):
            at_layer, patched = list(group), {}
            for site, empty in at_layer:
                if not empty:
                    patched[site] = slice(n_rows, n_rows + len(prompts))
                n_rows += len(prompts)
            copies[self._entry(layer)] = len(at_layer)
            edits.append((self._points[layer], self._patching(patched, prompts)))
        logits = passes.run(min(site.position for site, _ in sites), copies, edits)
        return logits.unflatten(0, (len(sites), len(prompts)))


def _plan(
    sites: Sequence[PatchSite], n_prompts: int, length: int, n_layers: int, batch_size: int
) -> Iterator[list[int]]:
    """Indices of the sites of each pass: as many as fit, taken by position, and by layer within the pass."""
    order = sorted(range(len(sites)), key=lambda i: sites[i].position)
    while order:
        n_tokens = -sites[order[0]].position
        # No more tokens than an unpatched run of batch_size prompts has, and at one layer no more keys and
        # values than it keeps at all layers.
        n_rows = min(batch_size * length // n_tokens, batch_size * n_layers)
        room = max(1, n_rows // n_prompts)
        yield sorted(order[:room], key=lambda i: sites[i].layer)
        order = order[room:]
