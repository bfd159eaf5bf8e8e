"""Faults of text files that table readers ignore in silence, or that block them."""

from __future__ import annotations

from pathlib import Path

from revlens.errors import DataError

_CHUNK = 2**20


def check_text_file(file: Path) -> None:
    """Check that a file of text is one.

    Raises:
        DataError: if it is no regular file, or holds a null byte: then it is binary, sparse or UTF-16.
    """
    if not file.is_file():
        raise DataError(f"{file} is no regular file.")
    with file.open("rb") as content:
        chunk, place = content.read(_CHUNK), 0
        while chunk:
            if b"\0" in chunk:
                raise DataError(
                    f"{file} has a null byte at {place + chunk.index(0)}, so it is no UTF-8 text; "
                    "save it as UTF-8."
                )
            place += len(chunk)
            chunk = content.read(_CHUNK)
