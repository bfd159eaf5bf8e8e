"""What a resumed training needs of a guard or a monitor: tensors by name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from revlens.errors import GuardError

#: Tensors by name; counters are tensors without axes.
State = Mapping[str, Tensor]


@runtime_checkable
class Stateful(Protocol):
    """A guard, a monitor, or what they hold."""

    def state_dict(self) -> dict[str, Tensor]: ...


def named_within(prefix: str, state: State) -> dict[str, Tensor]:
    """The state of a part, under names of the whole."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def part_of(state: State, prefix: str) -> dict[str, Tensor]:
    """The inverse of `named_within`."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def matched(owner: Stateful, state: State, growing: Collection[str] = ()) -> dict[str, Tensor]:
    """The state on the devices of the owner's own.

    Args:
        owner: whose state it is to become.
        state: by name.
        growing: names whose first axis may have another length.

    Raises:
        GuardError: if names or shapes are not those of the owner's own state.
    """
    own = owner.state_dict()
    if other := own.keys() ^ state.keys():
        raise GuardError(
            f"The state is not that of {_name(owner)}: only one of them has {min(other)}. "
            "Resume with guard and monitor made as in the training that was saved."
        )
    for name, tensor in own.items():
        skipped = int(name in growing)
        if state[name].shape[skipped:] != tensor.shape[skipped:]:
            raise GuardError(
                f"{name} of {_name(owner)} has shape {tuple(tensor.shape)}, the saved one "
                f"{tuple(state[name].shape)}. Resume with guard and monitor made as in the training that was "
                "saved: from the same model, probes and layers."
            )
    return {name: state[name].to(tensor.device) for name, tensor in own.items()}


def fingerprint(*parts: State) -> Tensor:
    """SHA-256 of tensors and their names, in place of copies in every checkpoint."""
    digest = hashlib.sha256()
    for tensors in parts:
        for name in sorted(tensors):
            digest.update(name.encode())
            digest.update(tensors[name].contiguous().view(torch.uint8).cpu().numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def check_fingerprint(owner: Stateful, state: State) -> None:
    """Check that a guard is made from the weights of the training that is resumed.

    Raises:
        GuardError: if the fingerprints of the two states differ; see also `matched`.
    """
    if not torch.equal(matched(owner, state)["fingerprint"], owner.state_dict()["fingerprint"]):
        raise GuardError(
            f"{_name(owner)} was prepared from other weights than in the training that is resumed; "
            "prepare it from the same two models: the reference, and the aligned model before any update."
        )


def _name(owner: Stateful) -> str:
    # A guard's str is its name; another object's would be its contents.
    return str(owner) if type(owner).__str__ is not object.__str__ else type(owner).__name__
