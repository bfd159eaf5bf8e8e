"""A model's latest forward pass: how much text came before it, which of its tokens are real, who runs it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import Cache

from revlens.context import check_pass, context_of
from revlens.errors import SiteError
from revlens.hooks.generation import Generation, current_generation, following_generation
from revlens.hooks.masks import real_tokens


@dataclass
class ForwardPass:
    """What is known of a forward pass before its hooks run.

    Attributes:
        n_past: columns of the batch that were read before it; None if a recurrent state does not say.
        n_tokens: columns that it reads.
        real: its tokens that are no padding; None if all are real.
        position_ids: as given.
        generation: the call of `generate` that it belongs to.
        with_gradient: whether it keeps a graph.
        fired: hook points that have fired.
        changes: what each edit of ``hook_resid_mid`` has added, to be added after the MLP as well.
    """

    n_past: int | None
    n_tokens: int
    real: Bool[Tensor, "batch pos"] | None
    position_ids: Int[Tensor, "*batch pos"] | None
    generation: Generation | None
    with_gradient: bool
    fired: set[str] = field(default_factory=set)
    changes: dict[str, Tensor] = field(default_factory=dict)

    def columns_of(self, name: str, h: Tensor) -> int:
        """How many tokens an activation has: those of the pass, or only the last where logits are computed.

        Raises:
            SiteError: if its axes are not [batch, pos, ...].
        """
        n_tokens = h.shape[1] if h.ndim > 1 else 0
        if n_tokens != self.n_tokens and (name.startswith("blocks.") or not 0 < n_tokens < self.n_tokens):
            raise SiteError(
                f"{name} has shape {tuple(h.shape)} in a pass over {self.n_tokens} tokens, so its axes are "
                "not [batch, pos, ...]; use model.hooks."
            )
        return n_tokens

    @property
    def goes_on(self) -> bool:
        """Whether text came before it."""
        return self.n_past is None or self.n_past > 0


class Followed:
    """The forward passes of a model while `follow` is open.

    Attributes:
        count: how many have run.
        generating: whether one was part of generation: in a call of `generate`, or with ``use_cache``.
        open: whether `follow` is still open.
    """

    def __init__(self, bridge: TransformerBridge, names: Iterable[str]) -> None:
        self.count = 0
        self.generating = False
        self.open = True
        self._bridge, self._context = bridge, context_of(bridge)
        self._names = frozenset(name for name in names if name.startswith("blocks."))
        self._here = threading.local()
        self._last: ForwardPass | None = None
        self._graphs = 0  # passes whose graphs may still be waiting for a backward pass
        self._went_backward = False
        self._read: WeakKeyDictionary[Cache, int] = WeakKeyDictionary()

    @property
    def latest(self) -> ForwardPass:
        """The pass that runs in this thread; in a backward pass, the one whose blocks it runs again.

        Raises:
            SiteError: outside of both, or if the backward pass is that of several forward passes.
        """
        if not goes_backward():
            found = getattr(self._here, "latest", None)
            if not isinstance(found, ForwardPass):
                raise SiteError("A block of the model ran by itself, outside a forward pass; call the model.")
            return found
        self._went_backward = True
        if self._graphs != 1 or self._last is None:
            raise SiteError(
                f"Gradient checkpointing runs blocks again in the backward pass of {self._graphs} forward "
                "passes, and hooks cannot tell which of them; go backward after each forward pass, or turn "
                "it off: model.original_model.activation_checkpointing_disable()."
            )
        return self._last

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a pass that is about to run, by its arguments.

        Raises:
            SiteError: if its rows or tokens cannot be told apart (DataParallel, encoder-decoders, some
                states and masks), or a hook point lies before the layer where it starts.
            ConfigError: beyond the model's context, see `revlens.context.check_pass`.
        """
        if getattr(self._here, "outermost", None) is not None:
            return
        self._here.outermost = module
        if getattr(module, "_is_replica", False):
            raise SiteError(
                "DataParallel splits batches, so hooks cannot tell their rows; call the model itself."
            )
        given = dict(zip(_parameters(type(module).forward), args, strict=False)) | kwargs
        embeds, ids = given.get("inputs_embeds"), given.get("input_ids")
        text = ids if embeds is None else embeds
        if text is None or getattr(getattr(module, "config", None), "is_encoder_decoder", False):
            raise SiteError(
                f"{type(module).__name__} does not read one text from left to right; use model.hooks."
            )
        self._check_start()
        rows, n_tokens = text.shape[0], text.shape[1]
        generation = current_generation(self._bridge.original_model)
        n_past = self._n_past(given, n_tokens, generation)
        check_pass(self._context, n_past or 0, n_tokens)
        if generation is not None:
            if generation.prompt_length is None and n_past is not None:
                generation.prompt_length, generation.rows = n_past + n_tokens, rows
            generation.n_read = (generation.n_read if n_past is None else n_past) + n_tokens
        self.count += 1
        self.generating |= generation is not None or bool(given.get("use_cache"))
        if self._went_backward:
            self._graphs, self._went_backward = 0, False
        self._graphs += torch.is_grad_enabled()
        self._last = self._here.latest = ForwardPass(
            n_past=n_past,
            n_tokens=n_tokens,
            real=real_tokens(given.get("attention_mask"), n_past, n_tokens),
            position_ids=given.get("position_ids"),
            generation=generation,
            with_gradient=torch.is_grad_enabled(),
        )

    def after_forward(self, module: nn.Module, args: object, output: object) -> None:
        """Note that a pass has ended, by an exception (without output) or in full.

        Raises:
            SiteError: if a hook point that is edited has not fired in a full pass.
        """
        if getattr(self._here, "outermost", None) is not module:
            return
        ended = getattr(self._here, "latest", None)
        self._here.outermost = self._here.latest = None
        silent = sorted(self._names - ended.fired) if output is not None and ended is not None else []
        if silent:
            raise SiteError(
                f"A forward pass did not come through {silent[0]}, so nothing was done there: its hooks were "
                "reset while the context was open, or the model skipped it."
            )

    def _check_start(self) -> None:
        blocks: Any = getattr(self._bridge, "blocks", ())
        start = getattr(blocks[0], "_start_at_layer_idx", None) if len(blocks) else None
        before = [name for name in self._names if start is not None and int(name.split(".")[1]) < start]
        if before:
            raise SiteError(
                f"start_at_layer={start} discards what {before[0]} gives, so an edit there does nothing."
            )

    def _n_past(self, given: dict[str, Any], n_tokens: int, generation: Generation | None) -> int | None:
        past = next((given[name] for name in _STATES if given.get(name) is not None), None)
        in_loop = generation is not None and generation.n_read > 0 and not generation.mixed
        if past is None:
            # Some loops keep a state to themselves; a pass over all of the text reads more each time.
            return generation.n_read if in_loop and generation and n_tokens <= generation.n_read else 0
        if isinstance(past, Cache):
            try:
                return int(past.get_seq_length())
            except ValueError:  # it has recurrent states only, which do not say how much they have read
                if not past.has_previous_state():
                    self._read[past] = n_tokens
                    return 0
        before = self._before(past, given, n_tokens, generation)
        if isinstance(past, Cache) and before is not None:
            self._read[past] = before + n_tokens
        return before

    def _before(
        self, state: object, given: dict[str, Any], n_tokens: int, generation: Generation | None
    ) -> int | None:
        """Columns that a recurrent state has read."""
        if generation is not None and generation.drafts:
            raise SiteError(
                "Drafts of coming tokens on a recurrent state cannot be followed; generate without."
            )
        if generation is not None and generation.n_read:
            return generation.n_read
        if isinstance(state, Cache) and state in self._read:
            return self._read[state]
        mask = given.get("attention_mask")
        wider = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > n_tokens
        return mask.shape[1] - n_tokens if wider and isinstance(mask, Tensor) else None


#: Arguments that carry what earlier passes leave: keys and values, or a recurrent state (Mamba, RWKV).
_STATES = ("past_key_values", "cache_params", "state")


@contextmanager
def follow(bridge: TransformerBridge, edited: Iterable[str] = ()) -> Iterator[Followed]:
    """Follow a bridge's forward passes, in every thread, while the context is open.

    Args:
        bridge: any bridge.
        edited: hook points that must fire in every pass, if in a block; their hooks add them to
            `ForwardPass.fired`.
    """
    followed = Followed(bridge, edited)
    # Callers may go past a module's hooks to its forward, as peft does and OPT: the outermost one counts.
    model: Any = bridge.original_model
    inner = [
        getattr(model, "base_model", model),
        model.get_decoder() if hasattr(model, "get_decoder") else model,
    ]
    handles = [
        handle
        for module in {id(module): module for module in (model, *inner)}.values()
        for handle in (
            module.register_forward_pre_hook(followed.before_forward, with_kwargs=True),
            module.register_forward_hook(followed.after_forward, always_call=True),
        )
    ]
    try:
        with following_generation(bridge):
            yield followed
    finally:
        followed.open = False
        for handle in handles:
            handle.remove()


def goes_backward() -> bool:
    """Whether this is inside a backward pass, where gradient checkpointing runs blocks again."""
    return torch._C._current_graph_task_id() != -1


@cache
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]
