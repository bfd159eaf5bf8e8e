"""Guard and monitor for a `transformers.Trainer`, and for trainers made of it, such as TRL's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from revlens.errors import GuardError, NonFiniteError
from revlens.forward import is_sharded, reshard
from revlens.training.across_processes import keep_together
from revlens.training.guard import Guard, trained_parameters
from revlens.training.monitor import Monitor


class ReversionCallback(TrainerCallback):
    """Adds a guard, a monitor or both to a Trainer.

    The model stays the plain Hugging Face model (or peft's) that it is: what the Trainer saves has the names it always has.
    At every update, not at every batch of gradient accumulation:

    1. before the first batch, the gradient of the guard's term is put where the task's gradients will be added to it. So
       the two are clipped together, accumulation leaves the term's weight alone, and the Trainer's logged loss is the task's.
       With fp16 it carries the gradient scaler's factor, as the task's does.
    2. around the batches, the guard's context is open. It is closed during evaluation.
    3. before and after the optimizer's step, the guard may change the update itself.

    In distributed data parallel training every process computes the same term on the same probes; averaging leaves it as it is. What a
    guard does to weights it does in every process, and all are then given those of the first. Under FSDP2 (torch's `fully_shard`) the same
    holds for guards that only add a term or open a context; one that acts before or after the optimizer's step or at the end is refused,
    since no process holds weights and gradients whole.
    The guard ends with the training: `SafeLoRA` projects the final weights, so save the model after ``train()``, as one does; the
    Trainer's own checkpoints are not projected. Build guard and monitor from the aligned model, before any update or resumption.

    Pass the callback when the Trainer is made (``callbacks=[...]``) if the guard is `FreezeLayers`: the Trainer then knows from the
    start which parameters are trained.

    Args:
        guard: an objective.
        monitor: reads the motion, and may stop the training. Readings go to the Trainer's logs, under the names of `Reading.means`.

    Raises:
        GuardError: if neither is given; when training starts, if weights are sharded by anything but accelerate's FSDP2 (DeepSpeed, FSDP1,
            transformers' ``distributed_config``), or by that and the guard acts on them itself.
    """

    def __init__(self, guard: Guard | None = None, monitor: Monitor | None = None) -> None:
        if guard is None and monitor is None:
            raise GuardError(
                "A ReversionCallback without guard and monitor would do nothing; give it at least one of them."
            )
        self.guard = guard or Guard()
        self.monitor = monitor
        self._has_begun = False
        self._around_task = ExitStack()

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The guard begins, if the callback was given to the Trainer when it was made."""
        self._begin(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The guard begins, if it has not."""
        launched_sharded = any(
            parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED")
        )
        loaded_sharded = getattr(kwargs["model"], "is_distributed_loading_by_transformers", False)
        if is_sharded(kwargs["model"]) and not loaded_sharded:
            self._check_sharded()
        elif args.deepspeed or args.fsdp or launched_sharded or loaded_sharded:
            raise GuardError(
                "Weights are to be sharded, and not as FSDP2 by accelerate, the one way that ReversionCallback supports. Load the model "
                'whole and use FSDP2 (fsdp=True, fsdp_config={"version": 2}, on GPUs), or DDP.'
            )
        self._begin(kwargs["model"])

    def _check_sharded(self) -> None:
        moments = [
            moment for moment in ("before_update", "after_update", "end") if self.guard.acts_at(moment)
        ]
        if moments:
            raise GuardError(
                f"{self.guard} acts on the model itself ({', '.join(moments)}), of which under FSDP2 no process holds weights or gradients "
                "whole. Use a guard that adds a term, such as Block, or DDP (with an adapter if the optimizer's state does not fit)."
            )

    def _begin(self, model: nn.Module) -> None:
        if not self._has_begun:
            self.guard.begin(model)
            self._has_begun = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The term's gradient, and the context around the task."""
        reshard(kwargs["model"])  # the Trainer may have evaluated
        self._add_gradient(kwargs["model"], state.global_step + 1, _loss_scale(kwargs["optimizer"]))
        self._around_task.enter_context(self.guard.around_task(kwargs["model"]))

    def _add_gradient(self, model: nn.Module, step: int, scale: float) -> None:
        term = self.guard.term(model)
        if term is None:
            return
        if not term.isfinite():
            raise NonFiniteError(
                f"The term of {self.guard} is {term.item()} before update {step}; lower the learning rate or its strength."
            )
        if not (term.requires_grad and _add_gradient_of(scale * term, model)):
            raise GuardError(
                f"The term of {self.guard} has no gradient at update {step}; it would do nothing."
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The task's passes are over."""
        self._around_task.close()
        self.guard.before_update(kwargs["model"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The optimizer has changed the weights."""
        self.guard.after_update(kwargs["model"])
        keep_together(kwargs["model"], self.guard, "after_update")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A reading, where one is due."""
        if self.monitor is not None and self.monitor.is_due(state.global_step):
            reading = self.monitor.read(kwargs["model"], state.global_step)
            reshard(kwargs["model"])  # left as it was
            if self.monitor.action == "stop" and self.monitor.exceeds(reading):
                control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The latest reading joins the Trainer's logs: its history, and loggers that come after this callback."""
        if self.monitor is not None and self.monitor.readings:
            means = self.monitor.readings[-1].means()
            kwargs["logs"].update(means)
            state.log_history[-1].update(means)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The guard ends; the callback may serve another training."""
        self._around_task.close()
        self.guard.end(kwargs["model"])
        keep_together(kwargs["model"], self.guard, "end")
        self._has_begun = False


def _add_gradient_of(term: Float[Tensor, ""], model: nn.Module) -> bool:
    """Add a term's gradient to those of the trained parameters, and tell whether any of them has one."""
    if is_sharded(model):
        term.backward()  # FSDP2's hooks average the gradients and share them out; autograd.grad would find none on a shard
        return any(parameter.grad is not None for parameter in trained_parameters(model).values())
    trained = list(trained_parameters(model).values())
    gradients = torch.autograd.grad(
        term, trained, allow_unused=True
    )  # past DDP's hooks, which wait for the task's
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return any(gradient is not None for gradient in gradients)


def _loss_scale(optimizer: Any) -> float:
    """The factor that an fp16 gradient scaler puts on the task's loss."""
    scaler = getattr(optimizer, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
