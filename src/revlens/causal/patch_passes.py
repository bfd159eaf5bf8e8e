"""The patching engine: what lies before a patch, in tokens or in layers, is computed once.

A patch at a layer and position changes nothing at earlier positions and nothing in earlier layers. So a forward pass over
the last tokens alone, on the keys and values of the unpatched run, is enough, and a patch needs rows in it only from its
layer on. One pass holds many cells: each enters with rows of its own, the unpatched run's residual stream, at the block
that it patches. A single row carries the pass up to there, so masks and rotary angles have one row and broadcast.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from revlens.causal.patch_sites import Cell, Edit, edit_rows, site_names
from revlens.families import JOINABLE_ATTENTIONS, JOINABLE_BLOCKS
from revlens.forward import (
    CleanRun,
    Metric,
    Past,
    caches_plainly,
    clean_run,
    equal_lengths,
    last_logits,
    measure,
    takes,
    token_tensor,
    whole_layers,
)

_HookFunction = Callable[[Tensor, object], Tensor]


class FallbackWarning(UserWarning):
    """Patches run as whole forward passes, one for each cell: the same numbers, later."""


class _Obstacle(Exception):
    """Why short passes cannot be used on a model, or are not exact on it."""


@dataclass(frozen=True)
class Swept:
    """What a sweep measured.

    Attributes:
        values: the metric under each patch.
        baseline: the metric of the unpatched run.
        rounding: how far an empty patch, one that is computed like the others and edits nothing, moves the metric at most.
    """

    values: Float[Tensor, "cell prompt"]
    baseline: Float[Tensor, " prompt"]
    rounding: float


@dataclass(frozen=True)
class CellPatcher:
    """Patches of one component, one cell at a time.

    Attributes:
        model: what is patched.
        component: one of `revlens.activations.COMPONENTS`, or ``z`` for the outputs of attention heads.
        cells: where.
        edit: what happens there.
        metric: what is measured.
        batch_size: no pass is wider than an unpatched run of so many prompts, neither in tokens nor in keys and values.
    """

    model: TransformerBridge
    component: str
    cells: Sequence[Cell]
    edit: Edit
    metric: Metric
    batch_size: int

    @torch.no_grad()
    def run(self, rows: Sequence[Sequence[int]]) -> Swept:
        """Patch prompts, given as token ids.

        Raises:
            HookNameError: if the model has no such component.
            ConfigError: see `revlens.forward.unpatched.measure`.

        Warns:
            FallbackWarning: if the model does not allow short passes, or they change its logits where nothing is patched;
                each patch is then a forward pass over whole prompts.
        """
        values, baseline, rounding = torch.empty(len(self.cells), len(rows)), torch.empty(len(rows)), 0.0
        measured_by = self._short_passes
        for prompts in equal_lengths(rows, self.batch_size):
            tokens = token_tensor(self.model, rows, prompts)
            try:
                group = measured_by(tokens, prompts)
            except _Obstacle as obstacle:
                message = f"{self.model.cfg.architecture}: {obstacle}. Each patch is a forward pass over whole prompts instead."
                warnings.warn(message, FallbackWarning, stacklevel=2)
                measured_by = self._whole_passes
                group = measured_by(tokens, prompts)
            values[:, prompts], baseline[prompts] = group.values, group.baseline
            rounding = max(rounding, group.rounding)
        return Swept(values, baseline, rounding)

    @cached_property
    def _sites(self) -> dict[int, str]:
        return site_names(self.model, {cell.layer for cell in self.cells}, self.component)

    def _entry(self, layer: int) -> str:
        """Where rows join to be patched: after the block, if that is what is patched; other components need its input."""
        return f"blocks.{layer}.hook_{'out' if self.component == 'resid_post' else 'in'}"

    def _editing(self, rows: Mapping[Cell, slice], prompts: Sequence[int]) -> _HookFunction:
        return lambda activation, hook: edit_rows(activation, rows, self.edit, prompts)

    def _whole_passes(self, tokens: Int[Tensor, "prompt pos"], prompts: Sequence[int]) -> Swept:
        baseline = measure(self.metric, last_logits(self.model, tokens))
        values = []
        for cell in self.cells:
            with self.model.hooks(
                fwd_hooks=[(self._sites[cell.layer], self._editing({cell: slice(None)}, prompts))]
            ):
                values.append(measure(self.metric, last_logits(self.model, tokens)))
        return Swept(torch.stack(values), baseline, 0.0)

    def _short_passes(self, tokens: Int[Tensor, "prompt pos"], prompts: Sequence[int]) -> Swept:
        # Checked first: a component that the model lacks is an error on any path.
        entries = [self._entry(layer) for layer in self._sites]
        _check_architecture(self.model)
        first, cache = min(cell.position for cell in self.cells), DynamicCache()
        clean = clean_run(self.model, tokens, entries, -first, past_key_values=cache, use_cache=True)
        past = _whole_layers(cache, tokens.shape[1], self.model.cfg.n_layers)
        baseline = measure(self.metric, clean.logits)

        # Cell 0 is the empty patch. It goes through all that the others go through, and shows whether to trust them;
        # every other pass is held to the row that carries it.
        cells = [Cell(min(self._sites), first), *self.cells]
        values = torch.empty(len(cells), len(prompts))
        for chosen in _plan(cells, len(prompts), tokens.shape[1], len(past), self.batch_size):
            logits = self._short_pass([(cells[i], i == 0) for i in chosen], clean, past, prompts)
            if 0 in chosen:
                _check_equal(logits[chosen.index(0)], clean.logits)
            values[chosen] = measure(self.metric, logits.flatten(0, 1)).view(len(chosen), len(prompts))
        return Swept(values[1:], baseline, float((values[0] - baseline).abs().max()))

    def _short_pass(
        self,
        cells: Sequence[tuple[Cell, bool]],
        clean: CleanRun,
        past: Sequence[DynamicLayer],
        prompts: Sequence[int],
    ) -> Float[Tensor, "cell prompt d_vocab"]:
        """Logits under each patch; cells come by increasing layer, with whether they are empty."""
        start = min(cell.position for cell, _ in cells)
        hooks: list[tuple[str, _HookFunction]] = []
        n_rows = 1  # the one that carries the pass
        for layer, group in groupby(cells, key=lambda cell_and_empty: cell_and_empty[0].layer):
            edited, joined_at = {}, n_rows
            for cell, empty in group:
                if not empty:
                    edited[cell] = slice(n_rows, n_rows + len(prompts))
                n_rows += len(prompts)
            stream = clean.kept[self._entry(layer)][:, start:]
            hooks.append((self._entry(layer), _joining(stream, (n_rows - joined_at) // len(prompts))))
            hooks.append((self._sites[layer], self._editing(edited, prompts)))
        cache = DynamicCache()
        cache.layers = [Past(layer, clean.tokens.shape[1] + start) for layer in past]
        with self.model.hooks(fwd_hooks=hooks):
            logits = last_logits(self.model, clean.tokens[:1, start:], past_key_values=cache, use_cache=True)
        _check_equal(logits[:1], clean.logits[:1])
        return logits[1:].unflatten(0, (len(cells), len(prompts)))


def _joining(stream: Float[Tensor, "prompt pos d_model"], copies: int) -> _HookFunction:
    """Hook function by which copies of the unpatched residual stream join the batch."""
    return lambda activation, hook: torch.cat([activation, stream.repeat(copies, 1, 1)])


def _plan(
    cells: Sequence[Cell], n_prompts: int, length: int, n_layers: int, batch_size: int
) -> Iterator[list[int]]:
    """Indices of the cells that share a pass: as many as fit in, by position; in the pass by layer."""
    order = sorted(range(len(cells)), key=lambda i: cells[i].position)
    while order:
        n_tokens = -cells[order[0]].position
        # As many tokens as an unpatched run of batch_size prompts has, and at one layer no more keys and values than it keeps of all.
        n_rows = min(batch_size * length // n_tokens, batch_size * n_layers)
        room = max(1, n_rows // n_prompts)
        yield sorted(order[:room], key=lambda i: cells[i].layer)
        order = order[room:]


def _check_architecture(model: TransformerBridge) -> None:
    for argument in ("past_key_values", "use_cache"):
        if not takes(model, argument):
            raise _Obstacle(f"its forward takes no {argument}")
    for layer, block in enumerate(model.blocks):
        attention = getattr(block, "attn", None)
        if type(block) not in JOINABLE_BLOCKS or type(attention) not in JOINABLE_ATTENTIONS:
            raise _Obstacle(
                f"not known whether block {layer} ({type(block).__name__}, {type(attention).__name__}) lets rows join"
            )
    if not caches_plainly(model):
        raise _Obstacle("it keeps more than keys and values")


def _whole_layers(cache: DynamicCache, n_tokens: int, n_layers: int) -> list[DynamicLayer]:
    """The layers of a cache that holds keys and values of every token at every layer."""
    layers = whole_layers(cache, n_tokens)
    if len(layers) != n_layers:
        raise _Obstacle(
            f"its cache holds keys and values of every token at {len(layers)} of {n_layers} layers"
        )
    return layers


def _check_equal(unpatched: Float[Tensor, "prompt d_vocab"], clean: Float[Tensor, "prompt d_vocab"]) -> None:
    # Half the digits of the dtype, relative to the largest logit: far more than rounding, far less than a wrong mask or position.
    tolerance = torch.finfo(clean.dtype).eps ** 0.5 * float(clean.abs().max())
    difference = float((unpatched - clean).abs().max())
    if not difference <= tolerance:
        raise _Obstacle(
            f"a short pass that edits nothing moves the logits by {difference:.2g}, more than {tolerance:.2g}"
        )
