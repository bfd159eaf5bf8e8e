"""What the tasks of an experiment are about: the start of a seed, v_rev from elsewhere, or a fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from revlens.experiment.fine_tune import FineTune

#: Reports one step of progress.
Tick = Callable[[], None]


@dataclass(frozen=True)
class Start:
    """The reference and the aligned model of a seed."""

    kinds: ClassVar[tuple[str, ...]] = ("start",)

    seed: int

    @property
    def name(self) -> str:
        """Unique in an experiment."""
        return f"seed {self.seed}"


@dataclass(frozen=True)
class OtherDirection:
    """v_rev of a seed from other checkpoints than its own reference and aligned model.

    Attributes:
        seed: whose v_rev it stands in for.
        source: one of the subject's ``other_histories``.
    """

    kinds: ClassVar[tuple[str, ...]] = ("direction",)

    seed: int
    source: str

    @property
    def name(self) -> str:
        """Unique in an experiment."""
        return f"v_rev of seed {self.seed}, {self.source}"


Unit = Start | OtherDirection | FineTune
