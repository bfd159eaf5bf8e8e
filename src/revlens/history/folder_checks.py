"""Check that the files of a checkpoint folder are its own, and as revlens saved them."""

from __future__ import annotations

import os
from pathlib import Path

from revlens.errors import HistoryError
from revlens.storage import SUMS, damages

#: Files that Hugging Face's loaders read from a checkpoint folder.
_READ = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "*.txt",
    "additional_chat_templates",
    "additional_chat_templates/*",
)


def check_links(folder: Path) -> None:
    """Check that no file which is read from a folder is a link out of it.

    A folder out of an archive may hold links to any file of its reader. The folder itself may be a link:
    the user named it. So may the files of a snapshot in the Hugging Face cache, into the ``blobs`` of their
    repository.

    Raises:
        HistoryError: naming the link and where it leads.
    """
    home = Path(os.path.realpath(folder))
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in sorted(path for pattern in _READ for path in folder.glob(pattern)):
        target = Path(os.path.realpath(path))  # unlike Path.resolve, no error on links in a circle
        if path.is_symlink() and not any(target.is_relative_to(allowed) for allowed in homes):
            raise HistoryError(
                f"{path} is a link to {target}, outside its folder; "
                "put a copy of the file there if it is meant."
            )


def check_unchanged(folder: Path) -> None:
    """Check the files of a checkpoint against its checksums; only checkpoints that revlens saved have any.

    Raises:
        HistoryError: naming the first file that is not.
    """
    if (folder / SUMS).is_file() and (problems := damages(folder)):
        raise HistoryError(
            f"{problems[0]} If it is in revlens' cache, delete {folder}: it is trained again. "
            f"If you changed it on purpose, delete {SUMS}."
        )
