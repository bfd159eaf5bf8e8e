"""Fine-tuning checkpoints in folders whose names end in their step: ``checkpoint-500``, ``step-20``."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from revlens.errors import FileError, HistoryError
from revlens.storage import read_json


def step_folders(pattern: str, root: Path) -> dict[int, Path]:
    """The folders that a glob pattern matches from ``root``, by increasing number at the end of their names.

    Raises:
        HistoryError: if no folder matches, and see `by_step`.
    """
    folders = [root / name for name in glob.glob(pattern, root_dir=root) if (root / name).is_dir()]
    if not folders:
        raise HistoryError(f"No folder matches {pattern!r} from {root.absolute()}.")
    return by_step(folders)


def by_step(folders: Iterable[Path]) -> dict[int, Path]:
    """Folders by increasing number at the end of their names.

    Raises:
        HistoryError: if a name ends in no number, two end in the same, or one disagrees with the
            global_step in its trainer_state.json.
    """
    steps: dict[int, Path] = {}
    for folder in folders:
        number = re.search(r"[0-9]{1,18}$", folder.name)
        if number is None:
            raise HistoryError(
                f"{folder} does not end in its step, as in checkpoint-500; name its step in a table of steps."
            )
        step = int(number.group())
        if step in steps:
            raise HistoryError(f"{steps[step]} and {folder} both end in step {step}; name one of them only.")
        _check_trainer_state(folder, step)
        steps[step] = folder
    return dict(sorted(steps.items()))


def _check_trainer_state(folder: Path, step: int) -> None:
    state = folder / "trainer_state.json"
    if not os.path.isfile(state):  # no error on a name that is too long
        return
    try:
        recorded = read_json(state)["global_step"]
    except (FileError, KeyError, TypeError, IndexError) as error:
        raise HistoryError(f"{state} names no global_step that can be read ({error!r}).") from error
    if recorded != step:
        raise HistoryError(
            f"{folder} ends in {step}, but its trainer_state.json says global_step {recorded}; "
            "name its step in a table of steps."
        )
