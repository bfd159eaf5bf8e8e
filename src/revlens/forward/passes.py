"""Passes over many prompts that share what they can, hardly pad, and stop after the last read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.forward.early_stop import must_run_through, run_until
from revlens.forward.length_batches import in_order, similar_lengths
from revlens.forward.positions import Positions, pool
from revlens.forward.shared_prefix import SharedPrefix, pad_right, shared_prefix
from revlens.prompts import pad_id_of, pad_left

#: Called with a hook point, its activations [batch, pos, d_model] and the mask of the batch [batch, pos].
Take = Callable[[str, Tensor, Int[Tensor, "batch pos"]], None]


@dataclass(frozen=True)
class Passes:
    """Passes over all prompts, each up to the last hook point that is read.

    Prompts of similar length share a pass, after the shared prefix. Two kinds of models run whole prompts in
    their order instead, padded on the left: those with hooks, which may tell prompts and tokens apart, and
    sharded ones, whose processes must all make equally many passes.

    Attributes:
        model: any bridge.
        rows: token ids of the prompts.
        names: hook points.
        batch_size: prompts per pass.
        prefix: the tokens that all rows begin with, if they were run once beforehand.
        whole: whether passes run whole prompts in their order, and to the model's end.
    """

    model: TransformerBridge
    rows: Sequence[Sequence[int]]
    names: Sequence[str]
    batch_size: int
    prefix: SharedPrefix | None
    whole: bool

    @classmethod
    def over(
        cls,
        model: TransformerBridge,
        rows: Sequence[Sequence[int]],
        names: Sequence[str],
        batch_size: int,
        *,
        keep_prefix: bool,
    ) -> Passes:
        """Plan the passes, and run the shared prefix; keep its activations if ``keep_prefix``."""
        whole = must_run_through(model)
        prefix = None if whole else shared_prefix(model, rows, names, keep=keep_prefix)
        return cls(model, rows, names, batch_size, prefix, whole)

    @torch.no_grad()
    def run(self, take: Take) -> Iterator[list[int]]:
        """Run pass after pass; after each, yield the indices of its prompts, in the order of its rows.

        Args:
            take: gets the activations inside the pass, without those of the prefix.

        Raises:
            ConfigError: if the batch size is below 1.
        """
        if self.whole:
            batches = in_order(range(len(self.rows)), self.batch_size)
        else:
            done = 0 if self.prefix is None else self.prefix.length
            batches = similar_lengths([len(row) - done for row in self.rows], self.batch_size)
        for prompts in batches:
            self._run([self.rows[i] for i in prompts], take)
            yield prompts

    def pooled(
        self, positions: Positions
    ) -> Iterator[tuple[list[int], dict[str, Float[Tensor, "batch d_model"]]]]:
        """Run pass after pass; after each, yield its prompts' indices and a vector of each, by hook point.

        Each pass refills the dict. A mean counts the prefix's tokens, whose activations must be kept for it.

        Raises:
            SiteError: on an unknown policy.
            ConfigError: if the batch size is below 1.
        """
        vectors: dict[str, Tensor] = {}

        def take(name: str, activation: Tensor, mask: Tensor) -> None:
            vectors[name] = self._pool(name, activation, mask, positions)

        for prompts in self.run(take):
            yield prompts, vectors

    def _pool(
        self,
        name: str,
        activation: Float[Tensor, "batch pos d_model"],
        mask: Int[Tensor, "batch pos"],
        positions: Positions,
    ) -> Float[Tensor, "batch d_model"]:
        pooled = pool(activation, mask, positions)
        if positions == "mean" and self.prefix is not None:
            new = mask.sum(1, keepdim=True).to(pooled.device)
            of_prefix = self.prefix.kept[name].to(pooled.dtype).mean(0)
            pooled = pooled + (of_prefix - pooled) * (self.prefix.length / (self.prefix.length + new))
        return pooled

    def _run(self, rows: Sequence[Sequence[int]], take: Take) -> None:
        if self.whole:
            device = next(self.model.parameters()).device
            tokens, mask = (x.to(device) for x in pad_left(rows, pad_id_of(self.model.tokenizer)))
            arguments = {"attention_mask": mask}
        else:
            tokens, mask, arguments = pad_right(self.model, rows, self.prefix)
        run_until(
            self.model, tokens, self.names, lambda name, activation: take(name, activation, mask), **arguments
        )
