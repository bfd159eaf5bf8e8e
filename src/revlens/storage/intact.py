"""Files that a stage leaves and a later one needs: there, and as they were written."""

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
    """The path of a file, which is as the stage wrote it.

    Raises:
        ResultsError: if it is missing or a byte of it has changed, naming it and the stage that makes it again.
    """
    if problem := damage(needed(path, stage)):
        raise ResultsError(f"{problem} Delete {path} and run `revlens {stage}`: it is made again.")
    return path
