"""What an audit finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Difference:
    """Something that is not as it must be.

    Attributes:
        place: what was compared: a file (with row and column, or field), a checksum, a key or activations.
        what: what is wrong there, with the stored and the recomputed value where there are two.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def missing(path: Path, verb: str) -> Difference:
    """A file that is not there, and the verb of `revlens` that makes it."""
    return Difference(str(path), f"is missing; run `revlens {verb}`")


@dataclass(frozen=True)
class Verification:
    """The result of a comparison, or of several.

    Attributes:
        differences: everything that is not as it must be.
        counts: how many of what were compared.
    """

    differences: tuple[Difference, ...]
    counts: Mapping[str, int]

    def and_also(self, other: Verification) -> Verification:
        """Both together; a difference that both have found appears once."""
        names = {**self.counts, **other.counts}
        counts = {name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in names}
        return Verification(tuple(dict.fromkeys(self.differences + other.differences)), counts)

    def summary(self) -> str:
        """Counts, in a line."""
        compared = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        return f"Compared: {compared}. Differences: {len(self.differences) or 'none'}."
