"""Checksums of finished files, by which a byte that changes afterwards is found.

Each folder has one list of its files, in the format of ``sha256sum``: ``sha256sum -c revlens.sha256``
checks it, too. A file is listed before it appears under its name, so that a kill leaves no file that is not
listed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revlens.storage.atomic import atomic_file, write_json, write_text
from revlens.storage.small_files import is_file_name

#: The list of a folder's files.
SUMS = "revlens.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def seal(folder: Path) -> None:
    """List every file that a folder holds now."""
    _write(
        folder,
        {path.name: _digest(path) for path in folder.iterdir() if path.is_file() and path.name != SUMS},
    )


@contextmanager
def listed_file(path: Path) -> Iterator[Path]:
    """As `revlens.storage.atomic.atomic_file`, with an entry in the list of its folder.

    The list is read and written as a whole: of two processes that do so at once, one loses its entry. So
    files that may be written at the same time need folders of their own.
    """
    with atomic_file(path) as partial:
        yield partial
        entries = {
            name: entry
            for name, entry in (_read(path.parent) or {}).items()
            if (path.parent / name).is_file()
        }
        _write(path.parent, entries | {path.name: _digest(partial)})


def write_listed_json(path: Path, value: Any) -> None:
    """As `revlens.storage.atomic.write_json`, with an entry in the list of its folder."""
    with listed_file(path) as partial:
        write_json(partial, value)


def damage(path: Path) -> str | None:
    """What is wrong with a file, in a sentence that names it; None if it is as it was written."""
    entries = _read(path.parent)
    if entries is None:
        return f"{path.parent / SUMS} is missing or damaged."
    if path.name not in entries:
        return f"{path} is not in {SUMS} beside it."
    if not path.is_file():
        return f"{path} is missing."
    if _digest(path) != entries[path.name]:
        return f"{path} is damaged: it is not what {SUMS} beside it says."
    return None


def damages(folder: Path) -> list[str]:
    """What is wrong with a folder's list, and with the files that it names; other files do not matter."""
    entries = _read(folder)
    if entries is None:
        return [f"{folder / SUMS} is missing or damaged."]
    outside = [
        f"{folder / SUMS} lists {name!r}, which is no file of its folder."
        for name in sorted(entries)
        if not is_file_name(name)
    ]
    return outside + [
        problem for name in sorted(entries) if is_file_name(name) and (problem := damage(folder / name))
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> dict[str, str] | None:
    """Digests by name; None if there is no list, or a line of it is damaged."""
    path = folder / SUMS
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [_LINE.fullmatch(line) for line in text.split("\n")[:-1]]
    if not text.endswith("\n") or not all(lines):
        return None
    return {line[2]: line[1] for line in lines if line}


def _write(folder: Path, entries: dict[str, str]) -> None:
    write_text(folder / SUMS, "".join(f"{entries[name]}  {name}\n" for name in sorted(entries)))
