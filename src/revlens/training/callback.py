"""Guard and monitor for a `transformers.Trainer`, and for subclasses of it such as TRL's."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from revlens.errors import GuardError, NonFiniteError
from revlens.forward import is_sharded, reshard
from revlens.training.across_processes import broadcast_trained
from revlens.training.checkpoint_state import CheckpointState
from revlens.training.guard import Guard, trained_parameters
from revlens.training.interruption import call_around, call_before, trainer_of, watch
from revlens.training.monitor import Monitor
from revlens.training.precision import weights_precision
from revlens.training.state import named_within, part_of
from revlens.training.task_tokens import task_batch


class ReversionCallback(TrainerCallback):
    """Adds a guard, a monitor or both to a Trainer.

    The model stays the plain Hugging Face model (or peft's) that it is, so the Trainer saves the names that
    it always saves. What happens at every update, which may be several batches of gradient accumulation:

    1. Before the first batch, the gradient of the guard's term goes where the task's gradients add to it. So
       the two are clipped together, accumulation leaves the term's weight alone, and the Trainer logs the
       task's loss. With fp16 the term has the gradient scaler's factor, as the task has.
    2. Around each batch's forward and backward pass, the guard's context is open. It is closed elsewhere:
       while this or another callback reads, evaluates, generates or saves.
    3. Before and after the optimizer's step, the guard may change the update itself.

    In distributed data parallel training every process computes the same term on the same probes, and the
    average is that term. Where a guard changes weights, it does so in every process, and all then receive
    those of the first. Under FSDP2 (torch's `fully_shard`) no process holds weights and gradients whole: a
    guard that only adds a term or opens a context acts as in data parallel training, and one that acts before
    or after the optimizer's step or at the end is refused.

    A guard that acts at last prompt tokens (`ConceptAblation.clamping`) or tells an answer's tokens apart
    (`ConstrainedLoss`) goes by the labels that the Trainer's ``compute_loss`` is given; training without
    labels is an error then.

    The guard ends with the training: `SafeLoRA`, `RESTA` and `WiSEFT` change the final weights, so save the
    model after ``train()``; the Trainer's own checkpoints are from before that. If training breaks off, by an
    error or by Ctrl-C, whatever the guard has put on the model comes off at once.

    Guard and monitor compute in the precision of the weights, as `weights_precision` says, whatever mixed
    precision the task has. Checkpoints have their state in a folder ``revlens``: make guard and monitor as
    for the first training, and ``train(resume_from_checkpoint=...)`` goes on as if it had never stopped.

    After training, `model_card_section` writes what a model card should say of guard and reversion.

    The callback moves to the head of the Trainer's callbacks: TensorBoard, W&B, trackio and the like get the
    readings, and upload checkpoints that are complete. Several guards need a callback each; they act in the
    order in which the Trainer has them.

    If the guard is `FreezeLayers`, pass the callback to the Trainer's constructor (``callbacks=[...]``), so
    that the Trainer knows from the start which parameters it trains.

    Args:
        guard: any guard.
        monitor: reads the motion, and may stop the training. The latest reading is part of everything that
            the Trainer logs, under the names of `Reading.means`.

    Raises:
        GuardError: if neither is given. When training starts, if anything but accelerate's FSDP2 (DeepSpeed,
            FSDP1, transformers' ``distributed_config``) shards the weights, or FSDP2 does and the guard acts
            on them itself or computes in another precision; if two callbacks have the same kinds of guard
            and monitor; or if a resumed checkpoint lacks the state. During training, if the guard's term has
            no gradient.
        NonFiniteError: during training, if the guard's term is NaN or infinite.
    """

    def __init__(self, guard: Guard | None = None, monitor: Monitor | None = None) -> None:
        if guard is None and monitor is None:
            raise GuardError(
                "A ReversionCallback without guard and monitor would do nothing; give it one or both."
            )
        self.guard = guard or Guard()
        self.monitor = monitor
        self._begun_on: nn.Module | None = None
        self._watch = ExitStack()
        self._is_training = False
        self._has_added_term = False
        name = f"{type(self).__name__}({self.guard}{'' if monitor is None else ', Monitor'})"
        self._saved = CheckpointState(name)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the guard, if the Trainer's constructor was given the callback."""
        self._begin(kwargs["model"])
        self._watch_training(is_running=False)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the guard, if it has not begun; take up the state of a checkpoint that is resumed.

        Raises:
            GuardError: see the class.
        """
        try:
            self._check_sharding(args, kwargs["model"])
            self._start(args, state, kwargs["model"])
        except BaseException:
            self._release()
            raise

    def _check_sharding(self, args: TrainingArguments, model: nn.Module) -> None:
        launched_sharded = any(
            parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED")
        )
        loaded_sharded = getattr(model, "is_distributed_loading_by_transformers", False)
        if is_sharded(model) and not loaded_sharded:
            self._check_sharded()
        elif args.deepspeed or args.fsdp or launched_sharded or loaded_sharded:
            raise GuardError(
                "Weights are to be sharded, and not as FSDP2 by accelerate, the one way that "
                "ReversionCallback supports. Load the model whole and use FSDP2 "
                '(fsdp=True, fsdp_config={"version": 2}, on GPUs), or DDP.'
            )

    def _start(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        # `model_init` makes a new model, and `auto_find_batch_size` starts again after an error.
        if self._begun_on is not model or self._is_training:
            self._begin(model)
            self._watch_training(is_running=True)
        self._is_training = True
        if self.monitor is not None:
            self.monitor.begin()
        saved = self._saved.start(args, state)
        if saved is not None:
            self.guard.load_state_dict(part_of(saved, "guard"))
            if self.monitor is not None:
                self.monitor.load_state_dict(part_of(saved, "monitor"))

    def _check_sharded(self) -> None:
        moments = [
            moment for moment in ("before_update", "after_update", "end") if self.guard.acts_at(moment)
        ]
        if moments:
            raise GuardError(
                f"{self.guard} acts on the model itself ({', '.join(moments)}), of which no process holds "
                "weights or gradients whole under FSDP2. Use a guard that adds a term, such as Block, or DDP "
                "(with an adapter if the optimizer's state does not fit)."
            )
        if (precision := AcceleratorState().mixed_precision) != "no":
            raise GuardError(
                f"FSDP2 casts weights to {precision} for every pass, in which probes would not read as at "
                "the start. Load the model in that dtype and train without mixed precision, or use DDP."
            )

    def _begin(self, model: nn.Module) -> None:
        self._release()
        with weights_precision(model):
            self.guard.begin(model)
        self._begun_on = model

    def _watch_training(self, *, is_running: bool) -> None:
        trainer = trainer_of(self)
        if trainer is None and self.guard.acts_at("around_task"):
            raise GuardError(
                f"No Trainer has this callback, so the task's passes are not to be found around which "
                f"{self.guard} acts. Give it to the Trainer: callbacks=[...] or add_callback."
            )
        if trainer is not None:
            self._call_first(trainer)
            self._watch = watch(trainer, self._release, is_training=is_running)
            # Loading a checkpoint's adapter thaws its weights, and the optimizer takes what is not frozen.
            call_before(trainer, "create_optimizer", self._freeze_again, self._watch)
            name = type(trainer).__name__

            def batch_of(model: nn.Module, inputs: object, *args: Any, **kwargs: Any) -> Any:
                return task_batch(name, inputs)

            call_around(trainer, "compute_loss", batch_of, self._watch)
            call_around(trainer, "training_step", self._around_task, self._watch)

    def _call_first(self, trainer: Trainer) -> None:
        """Move ahead of the loggers of ``report_to``, which a Trainer puts before its caller's callbacks."""
        handler = trainer.callback_handler
        handler.callbacks = sorted(
            handler.callbacks, key=lambda callback: not isinstance(callback, ReversionCallback)
        )

    def _around_task(self, *args: Any, **kwargs: Any) -> AbstractContextManager[object]:
        """The guard's context around the passes of a batch; as all callbacks have added their terms by now,
        none of them reads within another's.
        """
        assert self._begun_on is not None, "training begins with it"
        return self.guard.around_task(self._begun_on)

    def _freeze_again(self) -> None:
        if self._begun_on is not None:
            self.guard.around_task(self._begun_on)

    def _release(self) -> None:
        """Take everything off the model, wherever in an update."""
        self._watch.close()
        self._is_training = self._has_added_term = False
        if self._begun_on is not None:
            self.guard.release(self._begun_on)
        self._begun_on = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the term's gradient."""
        model = kwargs["model"]
        reshard(model)  # an evaluation may have gathered the weights
        model.train()  # as the task is trained, also after an evaluation
        # Where the data ends amid an update, the next epoch goes on with its gradients.
        if not self._has_added_term:
            with weights_precision(model):
                self._add_gradient(model, state.global_step + 1, _loss_scale(kwargs["optimizer"]))
            self._has_added_term = True

    def _add_gradient(self, model: nn.Module, step: int, scale: float) -> None:
        term = self.guard.term(model)
        if term is None:
            return
        if not term.isfinite():
            raise NonFiniteError(
                f"The term of {self.guard} is {term.item()} before update {step}; "
                "lower the learning rate or its strength."
            )
        if not (term.requires_grad and _add_gradient_of(scale * term, model)):
            raise GuardError(
                f"The term of {self.guard} has no gradient at update {step}; it would do nothing."
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The guard may look at the gradients."""
        self._has_added_term = False
        scaler = getattr(kwargs["optimizer"], "scaler", None)
        if scaler is not None and not args.max_grad_norm:  # else clipping has done it
            scaler.unscale_(kwargs["optimizer"].optimizer)
        with weights_precision(kwargs["model"]):
            self.guard.before_update(kwargs["model"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The guard may change the update that the optimizer has made."""
        with weights_precision(kwargs["model"]):
            self.guard.after_update(kwargs["model"])
        broadcast_trained(kwargs["model"], self.guard, "after_update")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take a reading, if one is due."""
        if self.monitor is not None and self.monitor.is_due(state.global_step):
            reading = self.monitor.read(kwargs["model"], state.global_step)
            reshard(kwargs["model"])  # the reading has gathered the weights
            if self.monitor.action == "stop" and self.monitor.exceeds(reading):
                control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the state into the checkpoint."""
        if args.save_only_model or state.is_hyper_param_search:
            return  # nobody can resume from it
        tensors = named_within("guard", self.guard.state_dict())
        if self.monitor is not None:
            tensors |= named_within("monitor", self.monitor.state_dict())
        if args.should_save:
            self._saved.save(args, state, tensors)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the latest reading to the Trainer's history, and to what loggers get."""
        if self.monitor is not None and self.monitor.readings:
            means = self.monitor.readings[-1].means()
            kwargs["logs"].update(means)
            state.log_history[-1].update(means)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the guard; the callback may serve another training."""
        with weights_precision(kwargs["model"]):
            self.guard.end(kwargs["model"])
        broadcast_trained(kwargs["model"], self.guard, "end")
        self._release()


def _add_gradient_of(term: Float[Tensor, ""], model: nn.Module) -> bool:
    """Add a term's gradient to those of the trained parameters; returns whether any of them has one."""
    if is_sharded(model):
        # FSDP2's hooks average and scatter the gradients; autograd.grad would find none on a shard.
        term.backward()
        return any(parameter.grad is not None for parameter in trained_parameters(model).values())
    trained = list(trained_parameters(model).values())
    # This bypasses DDP's hooks, which wait for the task's gradients.
    try:
        gradients = torch.autograd.grad(term, trained, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise GuardError(
            "The guard's term runs through layers that are checkpointed with use_reentrant=True, where torch "
            "cannot take its gradient apart from the task's. Train with "
            'activation_checkpointing_kwargs={"use_reentrant": False}.'
        ) from error
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            # The task's gradients add to it in place, and autograd may give several parameters one tensor.
            own = gradient.clone(memory_format=torch.contiguous_format)
            parameter.grad = own if parameter.grad is None else parameter.grad + gradient
    return any(gradient is not None for gradient in gradients)


def _loss_scale(optimizer: Any) -> float:
    """The factor that an fp16 gradient scaler puts on the task's loss."""
    scaler = getattr(optimizer, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
