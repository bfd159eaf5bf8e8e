"""One process at a time in a folder. The kernel releases a lock when its process ends, also by kill -9.

Locks are ``flock``: between machines they hold where the file system passes them on (NFS from Linux 2.6.12, Lustre with ``-o flock``).
A file system that has no locks at all gives none, and two processes are then not kept apart; each still writes whole files only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from revlens.errors import ConfigError, StorageError
from revlens.storage.atomic import naming, remove_scratch

#: The file that is locked, in the folder itself; it goes when its process ends, unless by a kill.
LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def n_launched() -> int:
    """How many processes were launched together with this one (by ``accelerate launch`` or ``torchrun``), itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def sole_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Write in a folder, which is made if need be, as the only process; what killed ones left unfinished there is removed first.

    Args:
        folder: whatever lies in it.
        wait: for another process to end; refuse at once if not.

    Raises:
        StorageError: if another process is writing there, naming it; also if the folder cannot be written to.
        ConfigError: if it would wait for a process that was launched together with this one, and which waits for this one in training.
    """
    if wait and n_launched() > 1:
        raise ConfigError(
            f"{n_launched()} processes were launched together, and one at a time may write in {folder}: they would wait for one another. "
            "Make it by one process; accelerate launch is for scripts that call revlens.training.finetune, see docs/scaling.md."
        )
    with naming(folder):
        made = not folder.exists()
        descriptor = _acquire(folder, wait)
    try:
        remove_scratch(folder)
        yield
    finally:
        # Unlinked before it is released: whoever then holds a lock on the removed file sees that, and tries again.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # something lies in it
                folder.rmdir()


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
