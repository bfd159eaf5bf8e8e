"""Short passes over the last tokens, on an unpatched run's keys and values; rows join at chosen blocks.

An edit at a layer and position changes nothing at earlier positions and nothing in earlier layers. So the
last tokens alone need to run, and an edit needs rows of its own only from its layer on. Rows join as copies
of the unpatched run's residual stream. A single row carries the pass up to there, so masks and rotary angles
have one row and broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from revlens.families import JOINABLE_ATTENTIONS, JOINABLE_BLOCKS
from revlens.forward.kv_cache import accepts, complete_layers, keeps_only_keys_and_values, shared_cache
from revlens.forward.last_token import last_logits
from revlens.forward.rounding import deviation
from revlens.forward.unpatched import UnpatchedRun, unpatched_run
from revlens.hooks import Hook


class Obstacle(Exception):
    """Why short passes cannot be used on a model, or are not exact on it."""


@dataclass(frozen=True)
class ShortPasses:
    """Short passes over the prompts of one unpatched run.

    Attributes:
        model: any bridge that lets rows join, see `after_unpatched_run`.
        unpatched: the run, with the residual stream at every hook point where rows may join.
        layers: its keys and values, by layer.
    """

    model: TransformerBridge
    unpatched: UnpatchedRun
    layers: Sequence[DynamicLayer]

    @classmethod
    def after_unpatched_run(
        cls, model: TransformerBridge, tokens: Int[Tensor, "prompt pos"], names: Sequence[str], last: int
    ) -> ShortPasses:
        """Run the model unpatched, and keep what short passes need.

        Args:
            model: any bridge.
            tokens: prompts of equal length, on the model's device.
            names: hook points of the residual stream where rows may join.
            last: how many tokens a short pass runs at most.

        Raises:
            Obstacle: if the model's blocks or attention are not known to let rows join, or it does not keep
                keys and values of every token, and only those.
        """
        _check_architecture(model)
        cache = DynamicCache()
        unpatched = unpatched_run(model, tokens, names, last, past_key_values=cache, use_cache=True)
        layers = complete_layers(cache, tokens.shape[1])
        if len(layers) != model.cfg.n_layers:
            raise Obstacle(
                "its cache holds keys and values of every token "
                f"at {len(layers)} of {model.cfg.n_layers} layers"
            )
        return cls(model, unpatched, layers)

    def run(
        self, start: int, copies: Mapping[str, int], edits: Sequence[tuple[str, Hook]]
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits at the last token of the rows that join.

        Args:
            start: position of the first token that runs, from the end: -1 is the last token.
            copies: how many copies of all prompts join at each hook point, in the order in which the pass
                reaches them.
            edits: hook functions that edit rows after they have joined. Row 0 carries the pass; those that
                join follow it.

        Raises:
            Obstacle: if the carrying row, which no edit may touch, does not give the unpatched run's logits.
        """
        joins = [(name, _joining(self.unpatched.kept[name][:, start:], n)) for name, n in copies.items()]
        past = shared_cache(self.layers, self.unpatched.tokens.shape[1] + start)
        with self.model.hooks(fwd_hooks=[*joins, *edits]):
            logits = last_logits(
                self.model, self.unpatched.tokens[:1, start:], past_key_values=past, use_cache=True
            )
        self.check_unpatched(logits[:1])
        return logits[1:]

    def check_unpatched(self, logits: Float[Tensor, "prompt d_vocab"]) -> None:
        """Check that a short pass's unedited logits, of some first prompts, are the unpatched run's.

        Raises:
            Obstacle: if they differ by more than rounding.
        """
        found = deviation(logits, self.unpatched.logits[: len(logits)])
        if not found.is_rounding:
            raise Obstacle(
                f"a short pass that edits nothing moves the logits by {found.largest:.2g}, "
                f"more than {found.tolerance:.2g}"
            )


def _joining(stream: Float[Tensor, "prompt pos d_model"], copies: int) -> Hook:
    """Hook function by which copies of the unpatched residual stream join the batch."""
    return lambda activation, hook: torch.cat([activation, stream.repeat(copies, 1, 1)])


def _check_architecture(model: TransformerBridge) -> None:
    for argument in ("past_key_values", "use_cache"):
        if not accepts(model, argument):
            raise Obstacle(f"its forward takes no {argument}")
    for layer, block in enumerate(model.blocks):
        attention = getattr(block, "attn", None)
        if type(block) not in JOINABLE_BLOCKS or type(attention) not in JOINABLE_ATTENTIONS:
            raise Obstacle(
                f"not known whether block {layer} ({type(block).__name__}, {type(attention).__name__}) "
                "lets rows join"
            )
    if not keeps_only_keys_and_values(model):
        raise Obstacle("it keeps more than keys and values")
