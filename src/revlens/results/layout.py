"""Where an experiment keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths under an output folder. Checkpoints are in the user's cache: several outputs share them."""

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
