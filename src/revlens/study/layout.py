"""Where a study keeps its files, in the folder of its experiment.

Runs are carried out at the same time, by processes of several machines perhaps, and a folder has one list of checksums (see
`revlens.storage.checksums.listed_file`). So every task writes into folders that are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from revlens.study.plan import Run


@dataclass(frozen=True)
class StudyLayout:
    """Paths under ``<experiment>/study``."""

    out: Path

    @property
    def root(self) -> Path:
        return self.out / "study"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def record(self, run: Run) -> Path:
        """What a run left: readings on the way, behaviour, and where its effect lies."""
        return self.root / "runs" / run.name / "record.json"

    def anchor(self, seed: int) -> Path:
        """Mean activations that the grid's baseline of a seed ends with."""
        return self.root / "anchors" / f"seed-{seed}" / "anchor.safetensors"

    def direction(self, seed: int, source: str) -> Path:
        """v_rev of a seed from elsewhere, see `revlens.study.config.DIRECTIONS`."""
        return self.root / "directions" / f"seed-{seed}" / source / "v_rev.safetensors"
