"""Check that a file which an earlier stage wrote is there, and unchanged."""

from __future__ import annotations

from pathlib import Path

from revlens.errors import ResultsError
from revlens.storage.checksums import damage


def needed(path: Path, stage: str) -> Path:
    """The path itself.

    Raises:
        ResultsError: if there is nothing there, naming the stage that makes it.
    """
    if not path.exists():
        raise ResultsError(f"{path} is missing; run `revlens {stage}` first.")
    return path


def intact(path: Path, stage: str) -> Path:
    """The path of a file that is as the stage wrote it.

    Raises:
        ResultsError: if it is missing or has changed, naming it and the stage that makes it again.
    """
    if problem := damage(needed(path, stage)):
        raise ResultsError(f"{problem} Delete {path} and run `revlens {stage}`: it is made again.")
    return path
