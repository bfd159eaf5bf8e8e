"""The fine-tuning loop, the same for every phase and every method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError, GuardError, NonFiniteError
from revlens.hooks import the_bridge
from revlens.training.across_processes import (
    broadcast_trained,
    check_replicated,
    check_same_start,
    rows_of_process,
    sum_gradients,
    sum_over_processes,
)
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import ChatBatch, batches, count_answer_tokens, micro_batches
from revlens.training.finetune_config import FinetuneConfig
from revlens.training.guard import Guard, trained_parameters
from revlens.training.nonfinite import describe_nonfinite
from revlens.training.precision import weights_precision


def finetune(
    model: nn.Module,
    data: Dataset,
    config: FinetuneConfig,
    *,
    seed: int,
    guard: Guard | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train a bridge in place on chat examples, with a guard if one is given.

    Parameters that do not require gradients (the base of a LoRA adapter) stay as they are.

    Under ``accelerate launch`` every process calls this with the same arguments and takes its share of every
    batch's rows. The task's gradients add up with the weight of their answer tokens; every process computes
    the guard's term, which is averaged. So the update is that of one process up to rounding, and all
    processes have the same weights after it.

    Args:
        model: the bridge; left in evaluation mode.
        data: columns ``prompt`` and ``answer``; the loss is on the answers.
        config: optimizer and schedule.
        seed: fixes the data order, and what dropout draws.
        guard: see `revlens.training.Guard`. Its term's gradient is added to the task's and clipped with it.
        on_step: called after each update with its number (from 1) and the task loss before it, in nats per
            answer token. The model is then in evaluation mode, to be read or saved; at the last update the
            guard has ended. Of several processes only the main one calls it, and the others wait for it at
            the end.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        NonFiniteError: if the loss or its gradient is NaN or infinite, with the update, layer and rows; the
            model keeps its last finite weights.
        GuardError: if the guard's term has no gradient; also see the guards.
        ConfigError: if no parameter requires gradients, or one that does is float16; if ``data`` lacks a
            column or has fewer rows than a batch; with several processes, if weights are sharded or differ at
            the start, or a batch has fewer rows than there are processes.
    """
    model = the_bridge(model, hooked=False)
    accelerator = Accelerator()
    # All of a process's Accelerators share this; a Trainer that broke off amid an update leaves it at False,
    # and then no optimizer steps.
    accelerator.sync_gradients = True
    check_replicated(accelerator, model)
    guard = guard or Guard()
    try:
        _train(model, data, config, seed, guard, on_step, accelerator)
    finally:
        guard.release(model)
        model.eval()


def _train(
    model: TransformerBridge,
    data: Dataset,
    config: FinetuneConfig,
    seed: int,
    guard: Guard,
    on_step: Callable[[int, float], None],
    accelerator: Accelerator,
) -> None:
    with weights_precision(model):
        guard.begin(model)
    trained = list(trained_parameters(model).values())
    if not trained:
        raise ConfigError(
            "No parameter of the model requires gradients, so there is nothing to train; "
            "unfreeze it, or add an adapter."
        )
    if any(parameter.dtype == torch.float16 for parameter in trained):
        raise ConfigError(
            "float16 weights cannot be trained, as squared gradients vanish in AdamW; "
            "use float32, bfloat16 or a LoRA adapter."
        )
    model.to(accelerator.device, print_details=False)
    check_same_start(trained, accelerator)
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate_at)
    optimizer = accelerator.prepare(optimizer)
    stream = batches(
        model.tokenizer,
        data,
        batch_size=config.batch_size,
        seed=seed,
        sort_window=config.sort_window,
        model=model,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed + accelerator.process_index)  # dropout draws from it
        for step, batch in enumerate(itertools.islice(stream, config.steps), start=1):
            model.train()
            optimizer.zero_grad()
            loss, added = _add_gradients(
                model, trained, batch, config.micro_batch_size, guard, step, accelerator
            )
            # A finite loss can have an infinite gradient, so check both before the weights change.
            norm = float(accelerator.clip_grad_norm_(trained, config.max_grad_norm))
            if not (math.isfinite(loss + added) and math.isfinite(norm)):
                raise NonFiniteError(
                    f"Loss is {loss + added} (task {loss}) at update {step} of {config.steps}; lower the "
                    f"learning rate ({config.learning_rate}) or the guard's strength. The norm of its "
                    f"gradient is {norm}. {describe_nonfinite(model, batch)}"
                )
            with weights_precision(model):
                guard.before_update(model)
            optimizer.step()
            with weights_precision(model):
                guard.after_update(model)
            broadcast_trained(model, guard, "after_update")
            schedule.step()
            model.eval()
            if step == config.steps:
                with weights_precision(model):
                    guard.end(model)
                broadcast_trained(model, guard, "end")
                guard.release(model)
            torch.clear_autocast_cache()
            if accelerator.is_main_process:
                on_step(step, loss)
        accelerator.wait_for_everyone()


def _add_gradients(
    model: TransformerBridge,
    trained: Sequence[nn.Parameter],
    batch: ChatBatch,
    micro_batch_size: int | None,
    guard: Guard,
    step: int,
    accelerator: Accelerator,
) -> tuple[float, float]:
    """Add up the gradients of an update, over all processes; returns the task loss and the guard's term."""
    loss, added, n_processes = 0.0, 0.0, accelerator.num_processes
    with guard.around_task(model):
        rows = rows_of_process(batch, accelerator.process_index, n_processes)
        for part, share in micro_batches(rows, micro_batch_size, count_answer_tokens(batch)):
            torch.clear_autocast_cache()  # of weights before the update, if autocast is around the loop
            task = share * answer_loss(model, part)
            accelerator.backward(task)
            loss += task.item()
    with weights_precision(model):
        term = guard.term(model)
        if term is not None:
            if not term.requires_grad:
                raise GuardError(
                    f"The term of {guard} has no gradient at update {step}; it would do nothing."
                )
            accelerator.backward(term / n_processes)
            added = term.item() / n_processes
    sum_gradients(trained, accelerator)
    loss, added = sum_over_processes([loss, added], accelerator)
    return loss, added
