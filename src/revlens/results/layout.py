"""Where an experiment keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths under an output folder, the same for every plan.

    Seeds and fine-tunes run at the same time, perhaps on several machines, and a folder has one list of
    checksums (see `revlens.storage.listed_file`). So each of them writes into folders of its own. Checkpoints
    live in the user's cache, where several outputs share them.
    """

    out: Path

    @property
    def config(self) -> Path:
        return self.out / "config.json"

    @property
    def key(self) -> Path:
        return self.out / "key"

    @property
    def runs(self) -> Path:
        return self.out / "runs"

    @property
    def results(self) -> Path:
        return self.out / "results"

    def rejudged(self, judge: str) -> Path:
        """Results by another judge, which names the folder."""
        return self.out / "rejudged" / judge

    @property
    def figures(self) -> Path:
        return self.out / "figures"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def v_rev(self, seed: int) -> Path:
        """v_rev of a seed, from its own reference and aligned model."""
        return self._seed(seed) / "v_rev.safetensors"

    def start_behaviour(self, seed: int) -> Path:
        """What a seed's reference and aligned model reply."""
        return self._seed(seed) / "start.json"

    def causal(self, seed: int) -> Path:
        """Folder of the tables of a seed's causal studies."""
        return self._seed(seed) / "causal"

    def other_v_rev(self, seed: int, source: str) -> Path:
        """v_rev of a seed, from checkpoints other than its own reference and aligned model."""
        return self._seed(seed) / "directions" / source / "v_rev.safetensors"

    def activations(self, seed: int, fine_tune: str) -> Path:
        """Folder of the activations captured across one fine-tune, which its label names."""
        return self._seed(seed) / fine_tune / "activations"

    def losses(self, seed: int, fine_tune: str) -> Path:
        """Task loss at every update of a fine-tune."""
        return self._seed(seed) / fine_tune / "losses.json"

    def behaviour(self, seed: int, fine_tune: str) -> Path:
        """What the model replies at the captured steps of a fine-tune."""
        return self._seed(seed) / fine_tune / "behaviour.json"

    def record(self, seed: int, fine_tune: str) -> Path:
        """What a fine-tune that keeps no checkpoints leaves: readings on the way, behaviour, and the route of
        its effect.
        """
        return self._seed(seed) / fine_tune / "record.json"

    def clamp_mean(self, seed: int, fine_tune: str) -> Path:
        """Mean activations at the end of a fine-tune, to which others are clamped."""
        return self._seed(seed) / fine_tune / "clamp_mean.safetensors"

    def _seed(self, seed: int) -> Path:
        return self.runs / f"seed-{seed}"
