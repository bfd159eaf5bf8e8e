"""Calls of `generate` on a followed model: where the prompt ends, and which rows come from which prompt."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import GenerationMixin

from revlens.errors import SiteError


@dataclass(eq=False)
class Generation:
    """A call of `generate` in progress.

    Attributes:
        prompt_length: columns of the prompt; None until the first pass of a loop that starts with it whole.
        rows: how many prompts; in a batch, the beams or samples of one prompt follow each other.
        n_read: columns read by the end of the latest pass.
        n_kept: once it has ended, columns that are part of the text: drafts that it discards are not.
        drafts: whether passes read drafts of coming tokens.
        beams: whether rows change places between passes.
        mixed: why its passes cannot be told apart; None if they can.
    """

    prompt_length: int | None = None
    rows: int | None = None
    n_read: int = 0
    n_kept: int | None = None
    drafts: bool = False
    beams: bool = False
    mixed: str | None = None


#: Settings under which generation also runs passes over other texts, or through parts of the model.
_MIXED = {
    "guidance_scale": "runs a second text beside each prompt",
    "token_healing": "moves the end of the prompt",
    "assistant_early_exit": "drafts with the model's own first layers",
    "custom_generate": "runs passes of its own",
}


class _Here(threading.local):
    """The generations of one thread, the innermost last, each with its Hugging Face model."""

    def __init__(self) -> None:
        self.stack: list[tuple[nn.Module, Generation]] = []


_HERE = _Here()
#: How many contexts follow each bridge.
_FOLLOWED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def current_generation(hf_model: nn.Module) -> Generation | None:
    """The innermost generation of a followed model in this thread."""
    return next((generation for model, generation in reversed(_HERE.stack) if model is hf_model), None)


@contextmanager
def following_generation(bridge: TransformerBridge) -> Iterator[None]:
    """Note every call that generates, of the bridge or its Hugging Face model, while this is open."""
    hf_model: Any = bridge.original_model
    ways = (
        (hf_model, "generate", _hugging_face),
        (hf_model, "init_continuous_batching", _refused),
        (bridge, "generate", _own_loop),
        (bridge, "generate_stream", _own_stream),
    )
    if not _FOLLOWED.get(bridge):
        for owner, name, around in ways:
            if hasattr(type(owner), name):
                owner.__dict__[name] = around(hf_model, getattr(owner, name))
    _FOLLOWED[bridge] = _FOLLOWED.get(bridge, 0) + 1
    try:
        yield
    finally:
        _FOLLOWED[bridge] -= 1
        if not _FOLLOWED[bridge]:
            for owner, name, _ in ways:
                owner.__dict__.pop(name, None)


@contextmanager
def _entered(hf_model: nn.Module, generation: Generation) -> Iterator[None]:
    _HERE.stack.append((hf_model, generation))
    try:
        yield
    finally:
        _HERE.stack.pop()


def _hugging_face(hf_model: nn.Module, generate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generate)
    def followed(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(GenerationMixin.generate).bind(hf_model, *args, **kwargs).arguments
        given.pop("self")
        given |= given.pop("kwargs", {})
        generation = _of_call(hf_model, given)
        # A static cache has transformers compile the model, and compiled code does not call later hooks.
        if given.get("generation_config") is None:
            given["disable_compile"] = True
        else:
            given["generation_config"] = copy.deepcopy(given["generation_config"])
            given["generation_config"].disable_compile = True
        with _entered(hf_model, generation):
            output = generate(**given)
        ids = _ids(given)
        new = getattr(output, "sequences", output).shape[1] - (0 if ids is None else ids.shape[1])
        if generation.prompt_length is not None:
            generation.n_kept = generation.prompt_length + new - 1  # no pass reads the last token
        return output

    return followed


def _ids(given: dict[str, Any]) -> Any:
    return given["inputs"] if given.get("inputs") is not None else given.get("input_ids")


def _of_call(hf_model: Any, given: dict[str, Any]) -> Generation:
    def setting(name: str) -> Any:
        for source in (given, given.get("generation_config"), hf_model.generation_config):
            value = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
            if value is not None:
                return value
        return None

    ids, embeds, mask = _ids(given), given.get("inputs_embeds"), given.get("attention_mask")
    prompt = ids if embeds is None else embeds
    # On a cache of an earlier text the prompt may be its new tokens only; then the mask covers the rest.
    length = None if prompt is None else max(prompt.shape[1], 0 if mask is None else mask.shape[1])
    mixed = [f"{name} {why}" for name, why in _MIXED.items() if setting(name) not in (None, False, 1)]
    return Generation(
        prompt_length=length,
        rows=None if prompt is None else prompt.shape[0],
        drafts=given.get("assistant_model") is not None or bool(setting("prompt_lookup_num_tokens")),
        beams=(setting("num_beams") or 1) > 1,
        mixed=mixed[0] if mixed else None,
    )


def _own_loop(hf_model: nn.Module, generate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generate)
    def followed(*args: Any, **kwargs: Any) -> Any:
        with _entered(hf_model, Generation()):
            return generate(*args, **kwargs)

    return followed


def _own_stream(hf_model: nn.Module, generate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generate)
    def followed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        generation, stream = Generation(), generate(*args, **kwargs)
        while True:
            with _entered(hf_model, generation):  # not while the caller has the turn
                try:
                    piece = next(stream)
                except StopIteration:
                    return
            yield piece

    return followed


def _refused(hf_model: nn.Module, way: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(way)
    def followed(*args: Any, **kwargs: Any) -> Any:
        raise SiteError(
            "Continuous batching packs tokens of many prompts into one row, so hooks cannot tell them apart; "
            "use model.generate."
        )

    return followed
