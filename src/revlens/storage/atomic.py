"""Files and directories that appear whole or not at all.

They are written under a scratch name (`SCRATCH`) beside their place, flushed to the disk, and renamed. No
reader looks at scratch names. What a killed process leaves under them is removed by the next process that
writes in the folder, see `revlens.storage.locks`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from revlens.errors import StorageError

#: How the names of unfinished files and directories begin.
SCRATCH = ".partial-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A scratch directory beside ``path`` that becomes ``path`` if the block succeeds; else it is removed.

    It replaces a directory that is there: on Linux in one step; elsewhere a kill between two steps leaves
    nothing at ``path``, and both directories whole under scratch names.

    Raises:
        StorageError: see `storage_errors`.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _scratch_directory(path)
        try:
            yield partial
            for inside in (*partial.rglob("*"), partial):
                _flush(inside)
            _put(partial, path)
            _flush(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A scratch path beside ``path`` that becomes ``path`` if the block succeeds; else it is removed.

    Raises:
        StorageError: see `storage_errors`.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: writers such as kaleido and pandas choose the format by it.
        partial = path.with_name(f"{SCRATCH}{os.getpid()}-{path.name}")
        try:
            yield partial
            _flush(partial)
            os.replace(partial, path)
            _flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (NaN is an error) atomically, indented, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_scratch(folder: Path) -> None:
    """Remove the scratch files that killed processes left below a folder. No one else may write there."""
    for path in list(folder.rglob(f"{SCRATCH}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of the file system that name a scratch file or none.

    Raises:
        StorageError: if the disk is full, the folder cannot be written to, or the like.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if isinstance(error.filename, str | Path) and not _belongs_to(Path(error.filename), path):
            raise  # of a file that was read
        raise StorageError(_message(path, error.strerror or str(error))) from error
    except Exception as error:
        if "(os error " not in str(error):  # as libraries written in Rust report errors of the system
            raise
        raise StorageError(_message(path, str(error))) from error


def _belongs_to(named: Path, path: Path) -> bool:
    return (
        named.is_relative_to(path)
        or path.is_relative_to(named)
        or any(part.startswith(SCRATCH) for part in named.parts)
    )


def _message(path: Path, reason: str) -> str:
    return (
        f"{path} cannot be written: {reason}. "
        "Make room, or choose another folder, and run the same command again."
    )


def _scratch_directory(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{path.name}-", dir=path.parent))


def _flush(path: Path) -> None:
    """Write buffers to the disk: else a rename could survive a power cut, and the file's content not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with suppress(OSError):  # some file systems cannot flush directories
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(new: Path, path: Path) -> None:
    if not path.exists():
        os.replace(new, path)
    elif not _exchange(new, path):
        old = _scratch_directory(path)
        os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old)


def _exchange(new: Path, old: Path) -> bool:
    """Swap the names of two directories in one step, and say whether the system could."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0
