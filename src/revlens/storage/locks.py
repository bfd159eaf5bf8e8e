"""One writer at a time in a folder. The kernel releases a lock when its process ends, also by kill -9.

Locks are ``flock``. Between machines they work where the file system supports that (NFS since Linux 2.6.12,
Lustre with ``-o flock``). A file system without locks does not keep two processes apart; each still writes
whole files only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from revlens.errors import ConfigError, StorageError
from revlens.storage.atomic import remove_scratch, storage_errors
from revlens.storage.processes import n_launched

#: The file that is locked, in the folder itself. Its process removes it at the end; a killed process cannot.
LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def sole_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only writer in a folder. Makes the folder, and removes what killed processes left in it.

    Args:
        folder: whatever lies in it.
        wait: for another process to finish; if False, raise at once.

    Raises:
        StorageError: if another process is writing there, naming it; if the folder cannot be written to.
        ConfigError: if ``wait`` is asked for among processes that were launched together: in training they
            wait for this one, so that none would ever go on.
    """
    if wait and n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were launched together, and one at a time may write in {folder}: "
            "they would wait for one another. Make it by one process; accelerate launch is for scripts "
            "that call revlens.training.finetune, see docs/scaling.md."
        )
    with storage_errors(folder):
        made = not folder.exists()
        descriptor = _acquire(folder, wait)
    try:
        remove_scratch(folder)
        yield
    finally:
        # Removed before it is released: a process that locks the removed file notices, and tries again.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # something lies in it
                folder.rmdir()


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Make a file or a folder that is not there; other processes that need it wait, and then find it.

    Args:
        path: what ``make`` writes whole or not at all.
        make: runs with its folder locked.

    Raises:
        StorageError, ConfigError: see `sole_writer`.
    """
    if not path.exists():
        with sole_writer(path.parent, wait=True):
            if not path.exists():
                make()


def _acquire(folder: Path, wait: bool) -> int:
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, folder, wait)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "unknown"
        raise StorageError(
            f"Another revlens process ({owner}) is writing in {folder}; wait for it, or choose another --out."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at that path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
