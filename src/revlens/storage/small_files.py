"""Small text files of unknown origin: configurations, manifests, lists of prompts."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from revlens.errors import FileError

#: Larger than any configuration, index or list of prompts.
MAX_BYTES = 2**28
#: How a surrogate is written in JSON; of text outside the basic plane they come in pairs.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path) -> str:
    """The UTF-8 text of a regular file, with ``\\n`` as line ends and without a byte order mark.

    Raises:
        FileError: if there is no such file; if it is a folder, a pipe or a device, of which reading could
            block for ever; if it has more than `MAX_BYTES`, or is no UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileError("it is no regular file")
        if status.st_size > MAX_BYTES:
            raise FileError(f"it has {status.st_size} bytes; such files have at most {MAX_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except FileError:
        raise
    except (OSError, ValueError) as error:  # no such file, no UTF-8, a null byte in its name
        raise FileError(str(error)) from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileError: as `read_text`; also if it is no JSON, is nested too deeply, has a key twice (readers
            silently take the last), or holds half a surrogate pair, which is no text.
    """
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except FileError:
        raise
    except RecursionError as error:
        raise FileError("it is nested too deeply") from error
    except ValueError as error:  # no JSON, a number of thousands of digits, half a surrogate pair
        raise FileError(str(error)) from error
    return value


def is_file_name(name: object) -> bool:
    """Whether this is the name of a file in a folder, and no path out of the folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise FileError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return table
