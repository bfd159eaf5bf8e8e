"""State of guard and monitor in a Trainer's checkpoints: a file of tensors in the checkpoint's folder.

A Trainer does not tell callbacks which folder it resumes from. So `trainer_state.json` has a token of the
training, and the folder is the one with a file of that name.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from revlens.errors import GuardError
from revlens.storage import atomic_file
from revlens.training.state import State

#: Folder in a checkpoint; not beside the weights, where some loaders take every safetensors file for weights.
_FOLDER = "revlens"


class CheckpointState:
    """Where the checkpoints of one training keep the state of one callback.

    Attributes:
        name: of the callback in the checkpoint.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._token = uuid.uuid4().hex

    def start(self, args: TrainingArguments, state: TrainerState) -> dict[str, Tensor] | None:
        """The state of the checkpoint that is resumed; None at the start of a training.

        Raises:
            GuardError: if two callbacks have the same name, or the checkpoint's state is missing.
        """
        saved = _entries(state).get(self.name)
        if state.global_step == 0:
            if saved is not None and args.save_strategy != SaveStrategy.NO:
                raise GuardError(
                    f"The Trainer has two callbacks {self.name}, which a checkpoint could not tell apart. "
                    "Give each a guard of another class (a subclass with another name is enough)."
                )
            self._mark(args, state)
            return None
        if saved is None:
            raise GuardError(
                f"The checkpoint at update {state.global_step} was saved without {self.name}. Resume from "
                "one that was saved with the same kinds of guard and monitor; or load the checkpoint as a "
                "model and train that without resume_from_checkpoint."
            )
        self._token = saved["token"]
        folders = [
            *([Path(args.resume_from_checkpoint)] if isinstance(args.resume_from_checkpoint, str) else []),
            self._checkpoint(str(args.output_dir), state),
            self._checkpoint(saved["output_dir"], state),
        ]
        files = [folder / _FOLDER / f"{self._token}.safetensors" for folder in folders]
        for file in files:
            if file.is_file():
                self._mark(args, state)
                return load_file(file)
        raise GuardError(
            f"The state of {self.name} at update {state.global_step} is in none of "
            f"{', '.join(dict.fromkeys(map(str, files)))}. If the checkpoint has moved, name its folder in "
            "TrainingArguments(resume_from_checkpoint=...) too; if its saving was cut off, resume from an "
            "earlier one."
        )

    def save(self, args: TrainingArguments, state: TrainerState, tensors: State) -> None:
        """Write a state into the checkpoint that the Trainer has just saved."""
        folder = self._checkpoint(str(args.output_dir), state) / _FOLDER
        folder.mkdir(exist_ok=True)
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic_file(folder / f"{self._token}.safetensors") as file:
            save_file(own, file)

    def _mark(self, args: TrainingArguments, state: TrainerState) -> None:
        """Have the Trainer write the token into its checkpoints."""
        output_dir = str(Path(str(args.output_dir)).resolve())
        _entries(state)[self.name] = {"token": self._token, "output_dir": output_dir}

    @staticmethod
    def _checkpoint(output_dir: str, state: TrainerState) -> Path:
        return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _entries(state: TrainerState) -> dict[str, Any]:
    """What `trainer_state.json` has of callbacks: declared as a list, but `TrainerState` makes it a dict."""
    return cast(dict[str, Any], state.stateful_callbacks)
