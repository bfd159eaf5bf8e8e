"""Where an experiment keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from revlens.checksums import damage
from revlens.errors import ResultsError


@dataclass(frozen=True)
class Layout:
    """Paths under an output folder. Checkpoints live in the user's cache, so that several outputs share them."""

    out: Path

    @property
    def config(self) -> Path:
        return self.out / "config.json"

    @property
    def key(self) -> Path:
        return self.out / "key"

    @property
    def results(self) -> Path:
        return self.out / "results"

    @property
    def figures(self) -> Path:
        return self.out / "figures"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def v_rev(self, seed: int) -> Path:
        return self.out / "runs" / f"seed-{seed}" / "v_rev.safetensors"

    def start_behaviour(self, seed: int) -> Path:
        return self.out / "runs" / f"seed-{seed}" / "start.json"

    def causal(self, seed: int) -> Path:
        return self.out / "runs" / f"seed-{seed}" / "causal"

    def activations(self, seed: int, arm: str) -> Path:
        return self.out / "runs" / f"seed-{seed}" / arm / "activations"

    def losses(self, seed: int, arm: str) -> Path:
        return self.out / "runs" / f"seed-{seed}" / arm / "losses.json"

    def behaviour(self, seed: int, arm: str) -> Path:
        return self.out / "runs" / f"seed-{seed}" / arm / "behaviour.json"


def needed(path: Path, stage: str) -> Path:
    """The path itself.

    Raises:
        ResultsError: if there is nothing there, naming the stage that makes it.
    """
    if not path.exists():
        raise ResultsError(f"{path} is missing; run `revlens {stage}` first.")
    return path


def intact(path: Path, stage: str) -> Path:
    """The path of a file, which is as the stage wrote it.

    Raises:
        ResultsError: if it is missing or a byte of it has changed, naming it and the stage that makes it again.
    """
    if problem := damage(needed(path, stage)):
        raise ResultsError(f"{problem} Delete {path} and run `revlens {stage}`: it is made again.")
    return path
