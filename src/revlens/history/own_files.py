"""Files of a checkpoint folder that lie in it, and not elsewhere on the machine."""

from __future__ import annotations

import os
from pathlib import Path

from revlens.errors import HistoryError
from revlens.storage import SUMS, damages

#: What Hugging Face's loaders read from a checkpoint folder.
_READ = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "*.txt",
    "additional_chat_templates",
    "additional_chat_templates/*",
)


def check_own_files(folder: Path) -> None:
    """Check that no file which is read from a folder is a link to somewhere else.

    A folder of an archive may hold links to any file of its reader. The folder itself may be a link: the user named it. In a
    snapshot of the Hugging Face cache files are links into the ``blobs`` of their own repository; these are let be.

    Raises:
        HistoryError: naming the link and where it leads.
    """
    home = Path(os.path.realpath(folder))
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in sorted(path for pattern in _READ for path in folder.glob(pattern)):
        target = Path(os.path.realpath(path))  # unlike Path.resolve, no error on links in a circle
        if path.is_symlink() and not any(target.is_relative_to(allowed) for allowed in homes):
            raise HistoryError(
                f"{path} is a link to {target}, outside its folder; put a copy of the file there if it is meant."
            )


def check_unchanged(folder: Path) -> None:
    """Check that the files of a checkpoint that revlens saved are as it saved them; other folders have no checksums.

    Raises:
        HistoryError: naming the first file that is not.
    """
    if (folder / SUMS).is_file() and (problems := damages(folder)):
        raise HistoryError(
            f"{problems[0]} If it is in revlens' cache, delete {folder}: it is trained again. If you changed it on purpose, delete {SUMS}."
        )
