"""Which tokens of the task's forward passes are of an answer, and which are last prompt tokens before one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from revlens.errors import GuardError
from revlens.training.chat_data import IGNORE

_ADVICE = "or use ablation, block or projection in place of this guard: they need no labels."


@dataclass(frozen=True)
class _Task:
    """The batch whose loss is being computed, as far as its trainer says.

    Attributes:
        trainer: what computes the loss, for messages.
        tensors: labels, attention mask and positions, all batch x pos; those that there are.
    """

    trainer: str
    tensors: Mapping[str, Tensor]


_TASK: ContextVar[_Task | None] = ContextVar("task", default=None)


@contextmanager
def task_batch(trainer: str, inputs: object) -> Iterator[None]:
    """Say of which batch the forward passes are that run until the context closes.

    Labels count as the trainer gives them to its loss: some losses keep them from the model.

    Args:
        trainer: what computes the loss, for messages.
        inputs: a mapping that may have ``labels``, ``attention_mask`` and ``position_ids``; anything else, as
            some trainers have it, tells nothing.
    """
    given = inputs if isinstance(inputs, Mapping) else {}
    names = [name for name in ("labels", "attention_mask", "position_ids") if given.get(name) is not None]
    task = _Task(trainer, {name: given[name] for name in names})
    token = _TASK.set(task)
    try:
        yield
    finally:
        _TASK.reset(token)


class AnswerTokens(NamedTuple):
    """The labels of a batch, and which token of its answer each is: from 1, and 0 outside of answers."""

    labels: Int[Tensor, "batch pos"]
    place: Int[Tensor, "batch pos"]


def answer_tokens() -> AnswerTokens:
    """The answer tokens of the batch; every turn that is learned is an answer.

    Raises:
        GuardError: see `last_prompt_tokens`.
    """
    last_prompt_tokens()  # checks that answers begin somewhere
    labels = _labelled_task().tensors["labels"]
    is_answer = labels != IGNORE
    count = is_answer.cumsum(1)
    before = torch.where(is_answer, 0, count).cummax(1).values
    return AnswerTokens(labels, torch.where(is_answer, count - before, 0))


def last_prompt_tokens() -> Bool[Tensor, "batch pos"]:
    """The tokens of the batch that the first token of an answer follows, one for each turn that is learned.

    The first token of a text never counts: where texts are packed into one row, collators mask its label even
    if the loss is on every token.

    Raises:
        GuardError: if the labels of the forward pass are not known or not one for each token, or if the
            batch has no such token, as when the loss is on every token.
    """
    task = _labelled_task()
    labels = task.tensors["labels"]
    is_answer = labels != IGNORE
    follows = torch.ones_like(is_answer)  # whether a token has another of its text before it
    follows[:, :1] = False
    if "attention_mask" in task.tensors:
        is_real = task.tensors["attention_mask"].to(labels.device) != 0
        follows[:, 1:] &= is_real[:, 1:] & is_real[:, :-1]
    if "position_ids" in task.tensors:
        follows &= task.tensors["position_ids"].to(labels.device) != 0
    chosen = follows & ~is_answer & is_answer.roll(-1, dims=1)
    chosen[:, -1] = False
    if not chosen.any():
        raise GuardError(
            f"No answer follows a prompt in a batch of {task.trainer}: the loss is on "
            f"{int(is_answer.sum())} of {labels.numel()} tokens. Set the labels of prompts to {IGNORE} (in "
            f"TRL: columns prompt and completion, or assistant_only_loss), {_ADVICE}"
        )
    return chosen


def _labelled_task() -> _Task:
    """The batch whose loss is being computed; its labels are known, one for each token."""
    task = _TASK.get()
    if task is None:
        raise GuardError(
            "A forward pass of the task runs where its labels are not known, and so its last prompt tokens "
            "are not: outside revlens.training.finetune and compute_loss of a Trainer with a "
            "ReversionCallback, or in a thread of torch.nn.DataParallel. Train in one of the two, with a "
            f"process for each GPU, {_ADVICE}"
        )
    if "labels" not in task.tensors:
        raise GuardError(
            f"{task.trainer} computes its loss from batches without labels, which would say where answers "
            "begin, so last prompt tokens are not known. Train on labels, as in supervised fine-tuning, "
            f"{_ADVICE}"
        )
    for name, tensor in task.tensors.items():
        if tensor.ndim != 2:
            raise GuardError(
                f"{name} of {task.trainer}'s batches has shape {tuple(tensor.shape)}; it must be batch x "
                f"position, to find last prompt tokens. Collate it so, {_ADVICE}"
            )
    return task
