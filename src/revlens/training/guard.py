"""The base of all guards: the moments of a fine-tune at which the loop or a Trainer calls one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.training.state import State, matched


class Guard:
    """A guard, by the moments at which it acts: each method does nothing unless a subclass overrides it.

    The model is a `TransformerBridge` in `revlens.training.finetune`, and a Hugging Face model with or
    without an adapter in `revlens.training.ReversionCallback`. At every moment but `around_task` autocast is
    off, so that under mixed precision too a guard computes in the precision of the weights.

    A guard that changes from update to update, or compares with where training started, has a state: it
    overrides `state_dict` and `load_state_dict`, and a Trainer's checkpoints then have it.
    """

    def __str__(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    def acts_at(self, moment: str) -> bool:
        """Whether it does anything at a moment (the name of a method): whether its class overrides that."""
        return getattr(type(self), moment) is not getattr(Guard, moment)

    def is_for_every_update(self) -> bool:
        """Whether it makes sense only if it acts at each update of the training."""
        return False

    def begin(self, model: nn.Module) -> None:
        """Called before the optimizer is made (in a Trainer: see `ReversionCallback`), for each training."""

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        """A context around the task's forward and backward passes: an update's, or each batch's of it."""
        return nullcontext()

    def term(self, model: nn.Module) -> Float[Tensor, ""] | None:
        """What is added to the loss at the model's present weights, with a gradient; None to add nothing.

        It is called once at every update.
        """
        return None

    def before_update(self, model: nn.Module) -> None:
        """Called after the gradients are complete and clipped, before the optimizer uses them."""

    def after_update(self, model: nn.Module) -> None:
        """Called after the optimizer has changed the weights."""

    def end(self, model: nn.Module) -> None:
        """Called after the last update; in `revlens.training.finetune`, before its ``on_step``."""

    def release(self, model: nn.Module) -> None:
        """Take off what it has put on the model; called after `end`, and when training breaks off."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed training needs of it, after an update."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state, after `begin`.

        Raises:
            GuardError: if the state is of another guard, or of one made from other probes or layers.
        """
        matched(self, state)


def copied(weights: Mapping[str, Tensor], guard_would: str) -> dict[str, Tensor]:
    """The weights that a guard compares with later, as they are now.

    Raises:
        GuardError: if there are none; ``guard_would`` says what becomes of the guard then.
    """
    if not weights:
        raise GuardError(
            f"No parameter of the model requires gradients, so {guard_would}; unfreeze it, or add an adapter."
        )
    return {name: weight.detach().clone() for name, weight in weights.items()}


def trained_alike(model: nn.Module, start: Mapping[str, Tensor], guard: str) -> dict[str, nn.Parameter]:
    """The trained parameters of a model, checked to be those that a guard has copied.

    Raises:
        GuardError: if the model trains others, naming one.
    """
    trained = trained_parameters(model)
    if other := trained.keys() ^ start.keys():
        raise GuardError(
            f"The model trains other parameters than {guard} was made for, such as {min(other)}; "
            f"make it with {guard}.at(model) from the model as it will be trained."
        )
    return trained


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
