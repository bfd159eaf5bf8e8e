"""Files against their checksums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from revlens.activations import Activations
from revlens.audit.difference import Difference, Verification
from revlens.errors import ResultsError
from revlens.storage import LOCK, SCRATCH, SUMS, damages


def compare_files(*tops: Path) -> Verification:
    """Compare files, and every file below folders, with their checksums.

    Activations are left out: `compare_activations` compares them with checksums of their own.
    """
    found = [path for top in tops for path in (top, *sorted(top.rglob("*"))) if path.is_file()]
    files = [path for path in found if not _is_apart(path)]
    differences: list[Difference] = []
    for folder in dict.fromkeys(path.parent for path in files):
        differences += [Difference("checksum", problem) for problem in damages(folder)]
        listed = (folder / SUMS).read_text(errors="replace") if (folder / SUMS).is_file() else ""
        names = {SUMS, *(line[66:] for line in listed.split("\n"))}
        differences += [
            Difference(
                str(path), f"is not in {SUMS} beside it: revlens did not write it, or the list has changed"
            )
            for path in files
            if path.parent == folder and path.name not in names
        ]
    return Verification(tuple(differences), {"files": len(files)})


def _is_apart(path: Path) -> bool:
    is_scratch = any(part.startswith(SCRATCH) for part in path.parts)
    return path.parent.name == "activations" or path.name == LOCK or is_scratch


def compare_activations(folders: Sequence[Path]) -> Verification:
    """Compare every shard of folders of activations with its checksum."""
    differences: list[Difference] = []
    for folder in folders:
        try:
            Activations.open(folder).verify()
        except ResultsError as error:
            differences.append(Difference("activations", str(error)))
    return Verification(tuple(differences), {"activation folders": len(folders)})
