"""The fine-tuning loop, shared by every phase and every arm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from datasets import Dataset
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError, GuardError, NonFiniteError
from revlens.prompts import pad_id_of
from revlens.training.across_processes import (
    add_up_gradients,
    check_replicated,
    check_same_start,
    keep_together,
    rows_of,
    summed,
)
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import (
    ChatBatch,
    batches,
    collate,
    count_answer_tokens,
    encode_examples,
    micro_batches,
)
from revlens.training.guard import Guard, trained_parameters
from revlens.training.nonfinite import where


@dataclass(frozen=True)
class FinetuneConfig:
    """Optimizer (AdamW) and schedule of one phase.

    Attributes:
        steps: optimizer updates.
        learning_rate: its peak.
        batch_size: rows per update.
        warmup_steps: linear warm-up to the peak.
        decay: whether the rate then falls to zero along a cosine; else it stays at the peak.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this global norm.
        sort_window: batches whose rows are sorted by length together, to save padding; 1 keeps the random order.
        micro_batch_size: rows per forward pass, to save memory; the update is that of the whole batch. All at once if None.

    Raises:
        ConfigError: if a value is out of range.
    """

    steps: int
    learning_rate: float
    batch_size: int = 32
    warmup_steps: int = 0
    decay: bool = False
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    sort_window: int = 1
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "batch_size", "max_grad_norm", "sort_window"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay={self.weight_decay} must be at least 0.")
        if self.micro_batch_size is not None and not 1 <= self.micro_batch_size <= self.batch_size:
            raise ConfigError(
                f"micro_batch_size={self.micro_batch_size} must lie between 1 and batch_size={self.batch_size}."
            )
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(f"warmup_steps={self.warmup_steps} must lie between 0 and steps={self.steps}.")

    def rate_at(self, update: int) -> float:
        """Learning rate of an update, as a share of the peak; updates count from 0."""
        if update < self.warmup_steps:
            return (update + 1) / self.warmup_steps
        if not self.decay:
            return 1.0
        progress = (update - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))


def finetune(
    model: TransformerBridge,
    data: Dataset,
    config: FinetuneConfig,
    *,
    seed: int,
    guard: Guard | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train a bridge in place on chat examples, with a guard if one is given.

    Parameters that do not require gradients (the base of a LoRA adapter) stay as they are.

    Under ``accelerate launch`` every process calls this with the same arguments. Each takes its share of every batch's rows, gradients
    are added up with the weight of their answer tokens, and the guard's term is computed in every process and averaged: the update
    is that of one process up to rounding, and all processes have the same weights after it.

    Args:
        model: the bridge; left in evaluation mode.
        data: columns ``prompt`` and ``answer``; the loss is on the answers.
        config: optimizer and schedule.
        seed: fixes the data order, and what dropout draws.
        guard: see `revlens.training.Guard`. Its term's gradient is added to the task's and clipped with it.
        on_step: called after each update with its number (from 1) and the task loss before it, in nats per answer token.
            The model is in evaluation mode then and may be read or saved. At the last update the guard has ended. Of several processes,
            only the main one calls it; all of them return when it has returned for the last time.

    Raises:
        NonFiniteError: if the loss or its gradient is NaN or infinite, naming update, layer and batch; the model keeps its last
            finite weights.
        GuardError: if the guard's term has no gradient; also see the objectives.
        ConfigError: if no parameter requires gradients, or one that does is float16; also see `revlens.training.chat_data.batches`. Of
            several processes: if weights are sharded or differ at the start, or there are fewer rows than processes.
    """
    accelerator = Accelerator()
    check_replicated(accelerator, model)
    guard = guard or Guard()
    guard.begin(model)
    trained = list(trained_parameters(model).values())
    if not trained:
        raise ConfigError(
            "No parameter of the model requires gradients, so there is nothing to train; unfreeze it, or add an adapter."
        )
    if any(parameter.dtype == torch.float16 for parameter in trained):
        raise ConfigError(
            "float16 weights cannot be trained: squared gradients vanish in AdamW. Use float32 or bfloat16, or a LoRA adapter."
        )
    model.to(accelerator.device, print_details=False)
    check_same_start(trained, accelerator)
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate_at)
    optimizer = accelerator.prepare(optimizer)
    stream = batches(
        model.tokenizer, data, batch_size=config.batch_size, seed=seed, sort_window=config.sort_window
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed + accelerator.process_index)  # dropout draws from it
            for step, batch in enumerate(itertools.islice(stream, config.steps), start=1):
                model.train()
                optimizer.zero_grad()
                loss, added = _add_gradients(
                    model, trained, batch, config.micro_batch_size, guard, step, accelerator
                )
                # A finite loss can have a gradient that is not; checked before the weights are touched.
                norm = float(accelerator.clip_grad_norm_(trained, config.max_grad_norm))
                if not (math.isfinite(loss + added) and math.isfinite(norm)):
                    raise NonFiniteError(
                        f"Loss is {loss + added} (task {loss}) at update {step} of {config.steps}; lower the learning rate "
                        f"({config.learning_rate}) or the guard's strength. The norm of its gradient is {norm}. {where(model, batch)}"
                    )
                guard.before_update(model)
                optimizer.step()
                guard.after_update(model)
                keep_together(model, guard, "after_update")
                schedule.step()
                model.eval()
                if step == config.steps:
                    guard.end(model)
                    keep_together(model, guard, "end")
                if accelerator.is_main_process:
                    on_step(step, loss)
            accelerator.wait_for_everyone()
    finally:
        model.eval()


def _add_gradients(
    model: TransformerBridge,
    trained: Sequence[nn.Parameter],
    batch: ChatBatch,
    micro_batch_size: int | None,
    guard: Guard,
    step: int,
    accelerator: Accelerator,
) -> tuple[float, float]:
    """Put the gradients of an update where the optimizer looks; the losses of the task and of the guard's term, over all processes."""
    loss, added, n_processes = 0.0, 0.0, accelerator.num_processes
    with guard.around_task(model):
        rows = rows_of(batch, accelerator.process_index, n_processes)
        for part, share in micro_batches(rows, micro_batch_size, count_answer_tokens(batch)):
            task = share * answer_loss(model, part)
            accelerator.backward(task)
            loss += task.item()
    term = guard.term(model)
    if term is not None:
        if not term.requires_grad:
            raise GuardError(
                f"The term of {type(guard).__name__} has no gradient at update {step}; it would do nothing."
            )
        accelerator.backward(term / n_processes)
        added = term.item() / n_processes
    add_up_gradients(trained, accelerator)
    loss, added = summed([loss, added], accelerator)
    return loss, added


#: Opens an intervention around a forward pass, given how many tokens of each row are prompt (None: as many as there are).
Around = Callable[[Int[Tensor, " batch"] | None], AbstractContextManager[object]]


def unaltered(prompt_length: Int[Tensor, " batch"] | None) -> AbstractContextManager[object]:
    """No intervention."""
    return nullcontext()


@torch.no_grad()
def task_loss(
    model: TransformerBridge, data: Dataset, *, batch_size: int = 64, around: Around = unaltered
) -> float:
    """Mean cross-entropy per answer token on held-out data, in nats; exp of it is the perplexity.

    Args:
        model: in evaluation mode.
        data: columns ``prompt`` and ``answer``.
        batch_size: rows per forward pass.
        around: opens an intervention for each forward pass.
    """
    examples = encode_examples(model.tokenizer, data)
    total, count = 0.0, 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        n_tokens = sum(len(example.answer) for example in chunk)
        with around(torch.tensor([len(example.prompt) for example in chunk])):
            total += float(answer_loss(model, collate(chunk, pad_id_of(model.tokenizer)))) * n_tokens
        count += n_tokens
    return total / count
