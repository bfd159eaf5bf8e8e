"""Public files that a data folder lacks: downloaded from one commit each, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from revlens.errors import DataError


@dataclass(frozen=True)
class PublicFile:
    """A file at a fixed address.

    Attributes:
        path: its place in a data folder.
        url: where it is.
        sha256: of its content (hex).
    """

    path: str
    url: str
    sha256: str


def fetch_missing(files: Iterable[PublicFile], folder: Path) -> None:
    """Download the files that are not in a folder yet. Those that are there are left as they are.

    Raises:
        DataError: if one cannot be downloaded, or has another content than it should.
    """
    for file in files:
        path = folder / file.path
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(file.url, str(path), hash_prefix=file.sha256, progress=False)
        except (OSError, RuntimeError) as error:  # no network, no such file; another content
            raise DataError(
                f"Cannot download {file.url}: {error}. Put the file at {path} by hand, or give a folder that "
                "has it."
            ) from error
