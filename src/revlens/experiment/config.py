"""What an experiment is: everything that decides its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from revlens.data import ChatSource, PromptSource
from revlens.errors import ConfigError, ResultsError
from revlens.organism import TRACKS, ModelConfig, OrganismConfig, TextWorldConfig, WorldConfig
from revlens.results import read_plain, to_plain
from revlens.storage import write_json
from revlens.subject import CAPTURE_STEPS, ProbeFiles, UserHistory, cache_key, capture_steps, check_steps
from revlens.training import ARMS, FinetuneConfig

#: More than anybody means: every run is a fine-tune, or several.
MAX_RUNS = 10_000


@dataclass(frozen=True)
class ExperimentConfig:
    """Configuration of `revlens reproduce`.

    Attributes:
        subject: the training history, its prompts and its benign task: the embedded organism, or one's own.
        seeds: one run (every phase that is trained here, every arm) each; runs are the unit of replication.
        arms: see `revlens.training.ARMS`; baseline is required, it is what the others are compared with.
        steps: captured and judged fine-tuning steps; the last one ends the fine-tune.
        strength: weight of the guard's term in every guarded arm.
        reply_tokens: longest generated reply.
        n_null_draws: null directions per null.
        n_controls: random and covariance-matched control directions of the interventions, each.

    Raises:
        ConfigError: on no or repeated seeds, unknown arms, or steps that are not positive and increasing; also on arms
            other than the baseline where the checkpoints are given.
    """

    subject: OrganismConfig | UserHistory = field(default_factory=OrganismConfig)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    arms: tuple[str, ...] = ARMS
    steps: tuple[int, ...] = CAPTURE_STEPS
    strength: float = 5.0
    reply_tokens: int = 32
    n_null_draws: int = 2000
    n_controls: int = 20

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds={self.seeds} must be distinct, and at least one.")
        if (
            "baseline" not in self.arms
            or not set(self.arms) <= set(ARMS)
            or len(set(self.arms)) != len(self.arms)
        ):
            raise ConfigError(f"arms={self.arms} must be distinct, among {ARMS}, and include 'baseline'.")
        if self.subject.benign is None and self.arms != ("baseline",):
            raise ConfigError(
                f"arms={self.arms}: with checkpoints that are given there is the baseline only; others need a [finetune] table."
            )
        check_steps(self.steps)
        for name in ("strength", "reply_tokens", "n_null_draws", "n_controls"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive.")

    def key(self) -> str:
        """Hash of the configuration and the versions of what turns it into weights."""
        return cache_key(self)

    def with_steps(self, last: int) -> ExperimentConfig:
        """The same experiment with a fine-tune of ``last`` updates, captured at the same dense early steps."""
        if last < 1:
            raise ConfigError(f"A fine-tune needs at least 1 update, got {last}.")
        return replace(self, steps=capture_steps(last))

    def with_seeds(self, n: int) -> ExperimentConfig:
        """The same experiment with ``n`` runs, of seeds 0, 1, 2, ...

        Raises:
            ConfigError: if there are to be none, or more than `MAX_RUNS`.
        """
        if not 1 <= n <= MAX_RUNS:
            raise ConfigError(f"seeds={n} must be between 1 and {MAX_RUNS} runs.")
        return replace(self, seeds=tuple(range(n)))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, to_plain(self))

    @classmethod
    def load(cls, path: Path) -> ExperimentConfig:
        """Read what `save` wrote.

        Raises:
            ResultsError: if there is no such file, or it holds unknown settings.
        """
        if not path.is_file():
            raise ResultsError(
                f"No experiment at {path.parent} (no {path.name}); start one with `revlens reproduce` or `revlens history`."
            )
        return read_plain(path, cls, CONFIG_TYPES, "experiment configuration")


def quick() -> ExperimentConfig:
    """A smoke run of the whole pipeline on a smaller organism: shows that everything works, not an effect."""
    return _smoke(TRACKS["organism"].organism("quick"))


def text_experiment(data_dir: Path, *, quick: bool = False, large: bool = False) -> ExperimentConfig:
    """The real-text organism on the data of a folder: as it is, large for a GPU, or as a smoke run.

    Raises:
        DataError: see `TextWorldConfig.of`.
        ConfigError: if it is to be both large and quick.
    """
    if quick and large:
        raise ConfigError("A smoke run is on a small model: leave out --quick or --large.")
    size: Literal["default", "quick", "large"] = "quick" if quick else "large" if large else "default"
    organism = TRACKS["text"].organism(size, str(data_dir.absolute()))
    return _smoke(organism) if quick else ExperimentConfig(subject=organism)


def _smoke(organism: OrganismConfig) -> ExperimentConfig:
    config = ExperimentConfig(subject=organism, seeds=(0, 1), n_null_draws=500, n_controls=5)
    return config.with_steps(organism.benign.steps)


#: What a stored configuration may be made of.
CONFIG_TYPES = (
    ExperimentConfig,
    OrganismConfig,
    WorldConfig,
    TextWorldConfig,
    ModelConfig,
    FinetuneConfig,
    UserHistory,
    ProbeFiles,
    PromptSource,
    ChatSource,
)
