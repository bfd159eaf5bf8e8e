"""Forward passes over prompts that compute little in vain: what all prompts begin with runs once, and padding is rare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.forward.early_stop import run_until, runs_through
from revlens.forward.positions import Positions, pool
from revlens.forward.shared_prefix import SharedPrefix, padded, shared_prefix
from revlens.prompts import pad_id_of, pad_left

#: Called with a hook point, its activations [batch, pos, d_model] and the mask of the batch [batch, pos].
Take = Callable[[str, Tensor, Int[Tensor, "batch pos"]], None]

#: How many tokens a pass computes at most, padding included, for each that is a prompt's.
PADDED = 4 / 3


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of about equal length, shortest first: at most ``batch_size`` each, and a quarter of padding."""
    batches: list[list[int]] = []
    tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if (
            not batches
            or len(batches[-1]) == batch_size
            or (len(batches[-1]) + 1) * lengths[i] > PADDED * (tokens + lengths[i])
        ):
            batches.append([])
            tokens = 0
        batches[-1].append(i)
        tokens += lengths[i]
    return batches


@dataclass(frozen=True)
class Passes:
    """Passes over all prompts, each up to the last hook point that is read.

    Prompts of about equal length share a pass. A model with hooks on it, which may tell prompts and tokens apart, runs over
    whole prompts in their order, padded on the left. So does a sharded one, of which all processes have to make equally many passes.

    Attributes:
        model: any bridge.
        rows: token ids of the prompts.
        names: hook points.
        batch_size: prompts per pass.
        prefix: what all rows begin with, if it was run beforehand.
        whole: whether passes are over whole prompts in their order, and to their end.
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
        """Plan the passes, and run the shared prefix; its activations are kept if they are asked for."""
        whole = runs_through(model)
        prefix = None if whole else shared_prefix(model, rows, names, keep=keep_prefix)
        return cls(model, rows, names, batch_size, prefix, whole)

    @torch.no_grad()
    def run(self, take: Take) -> Iterator[list[int]]:
        """Run pass after pass; after each, yield which prompts it was, in the order of its rows.

        Args:
            take: gets the activations as they come, without those of the prefix.
        """
        everyone = range(len(self.rows))
        if self.whole:
            batches = [
                list(everyone[start : start + self.batch_size]) for start in everyone[:: self.batch_size]
            ]
        else:
            done = 0 if self.prefix is None else self.prefix.length
            batches = by_length([len(row) - done for row in self.rows], self.batch_size)
        for prompts in batches:
            self._run(prompts, take)
            yield prompts

    def pool(
        self,
        name: str,
        activation: Float[Tensor, "batch pos d_model"],
        mask: Int[Tensor, "batch pos"],
        positions: Positions,
    ) -> Float[Tensor, "batch d_model"]:
        """One vector per prompt from what `run` gives; a mean counts the tokens of the prefix in."""
        pooled = pool(activation, mask, positions)
        if positions == "mean" and self.prefix is not None:
            new = mask.sum(1, keepdim=True).to(pooled.device)
            of_prefix = self.prefix.kept[name].to(pooled.dtype).mean(0)
            pooled = pooled + (of_prefix - pooled) * (self.prefix.length / (self.prefix.length + new))
        return pooled

    def _run(self, prompts: Sequence[int], take: Take) -> None:
        if self.whole:
            device = next(self.model.parameters()).device
            tokens, mask = (
                x.to(device)
                for x in pad_left([self.rows[i] for i in prompts], pad_id_of(self.model.tokenizer))
            )
            arguments = {"attention_mask": mask}
        else:
            tokens, mask, arguments = padded(self.model, [self.rows[i] for i in prompts], self.prefix)
        run_until(
            self.model, tokens, self.names, lambda name, activation: take(name, activation, mask), **arguments
        )
