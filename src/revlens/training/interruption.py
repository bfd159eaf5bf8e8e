"""Moments of a Trainer that it has no event for: training breaks off, optimizer or loss are made."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from transformers import Trainer, TrainerCallback

from revlens.errors import GuardError

#: What a Trainer calls from `on_train_begin` on.
_PARTS_OF_TRAINING = ("_evaluate", "_run_epoch", "_finalize_training")


def trainer_of(callback: TrainerCallback) -> Trainer | None:
    """The Trainer that calls the callback now; None if none does."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer) and any(
            known is callback for known in owner.callback_handler.callbacks
        ):
            return owner
        frame = frame.f_back
    return None


def watch(trainer: Trainer, on_break: Callable[[], None], *, is_training: bool) -> ExitStack:
    """Call a function if training breaks off, by whatever exception, until the stack closes.

    A Trainer has no event for it, so this wraps methods of this one Trainer.

    Args:
        trainer: what trains.
        on_break: called before the exception goes on.
        is_training: whether ``train`` runs already, which is then too late to be wrapped itself.

    Raises:
        GuardError: if it is training and lacks a method to wrap, as in older versions of transformers.
    """
    parts: list[tuple[object, str]] = [(trainer, "train")]
    if is_training:
        handler = trainer.callback_handler
        parts = [(handler, "call_event"), *((trainer, name) for name in _PARTS_OF_TRAINING)]
        parts += [(other, "on_train_begin") for other in handler.callbacks]  # that event is being called
    stack = ExitStack()
    for owner, name in parts:
        if not hasattr(owner, name):
            raise GuardError(
                f"{type(trainer).__name__} has no {name}, so an interruption would go unnoticed. Pass the "
                "ReversionCallback to its constructor (callbacks=[...]) in place of add_callback."
            )
        _add(owner, name, "watchers", on_break, stack)
    return stack


def call_before(trainer: Trainer, name: str, call: Callable[[], None], stack: ExitStack) -> None:
    """Call a function before a method of this one Trainer, until the stack closes."""
    _add(trainer, name, "callers", call, stack)


def call_around(
    trainer: Trainer, name: str, context: Callable[..., AbstractContextManager[object]], stack: ExitStack
) -> None:
    """Open a context around a method of this one Trainer, until the stack closes.

    Args:
        trainer: what trains.
        name: of the method.
        context: called with the method's arguments.
        stack: closed when the training is over.
    """
    _add(trainer, name, "contexts", context, stack)


class _Watched:
    """A wrapped method; the callbacks of one Trainer share it, as they end in any order."""

    def __init__(self, owner: object, name: str) -> None:
        self.method = getattr(owner, name)
        self.before = vars(owner).get(name)
        self.callers: list[Callable[[], None]] = []
        self.contexts: list[Callable[..., AbstractContextManager[object]]] = []
        self.watchers: list[Callable[[], None]] = []
        functools.update_wrapper(self, self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for caller in list(self.callers):
            caller()
        try:
            with ExitStack() as stack:
                for context in self.contexts:
                    stack.enter_context(context(*args, **kwargs))
                return self.method(*args, **kwargs)
        except BaseException:
            for watcher in list(self.watchers):
                watcher()
            raise


def _add(owner: object, name: str, role: str, function: Callable[..., object], stack: ExitStack) -> None:
    present = vars(owner).get(name)
    watched = present if isinstance(present, _Watched) else _Watched(owner, name)
    getattr(watched, role).append(function)
    setattr(owner, name, watched)

    def unwatch() -> None:
        getattr(watched, role).remove(function)
        roles = (watched.watchers, watched.callers, watched.contexts)
        if not any(roles) and vars(owner).get(name) is watched:
            delattr(owner, name)
            if watched.before is not None:
                setattr(owner, name, watched.before)

    stack.callback(unwatch)
