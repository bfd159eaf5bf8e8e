"""What an experiment is: everything that decides its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from revlens.errors import ConfigError, ResultsError
from revlens.experiment.arms.plan import Arms
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guards.plan import Guards
from revlens.organism import TRACKS, OrganismConfig
from revlens.results import config_json, read_config
from revlens.storage import write_json
from revlens.subject import CAPTURE_STEPS, UserHistory, cache_key, capture_steps, check_steps

#: More than anybody means: every run is a fine-tune, or several.
MAX_RUNS = 10_000


@dataclass(frozen=True)
class ExperimentConfig:
    """A subject, and a plan of what to do with it in each of several runs.

    Attributes:
        subject: the training history, its prompts and its benign task: an organism, or a user's own.
        seeds: one run (every phase that is trained here, every fine-tune of the plan) each; runs are the unit
            of replication.
        steps: steps of the benign fine-tune at which it is captured and judged; the last one ends it.
        reply_tokens: longest generated reply, in tokens.
        plan: the fine-tunes, and what is asked of them.

    Raises:
        ConfigError: on no or repeated seeds, steps that are not positive and increasing, or a plan that does
            not suit the subject.
    """

    subject: OrganismConfig | UserHistory = field(default_factory=OrganismConfig)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: tuple[int, ...] = CAPTURE_STEPS
    reply_tokens: int = 32
    plan: Arms | Guards = field(default_factory=Arms)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds={self.seeds} must be distinct, and at least one.")
        check_steps(self.steps)
        if not self.reply_tokens > 0:
            raise ConfigError(f"reply_tokens={self.reply_tokens} must be positive.")
        self.plan.check(self)

    def fine_tunes(self) -> list[FineTune]:
        """Every fine-tune of the plan."""
        return self.plan.fine_tunes(self)

    def seed_after(self, seed: int) -> int:
        """The seed that stands in for another one: the next in the list, after the last one the first."""
        return self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]

    @property
    def template_date(self) -> str | None:
        """What the chat template reads as today's date; None if nothing pins it."""
        return self.subject.history.get("template_date") if isinstance(self.subject, UserHistory) else None

    def key(self) -> str:
        """Hash of the configuration and of all that turns it into numbers, see
        `revlens.subject.cache_key`.
        """
        return cache_key(self)

    def with_steps(self, last: int) -> ExperimentConfig:
        """The same experiment with a fine-tune of ``last`` updates, captured at the same dense early steps.

        Raises:
            ConfigError: if there are to be none.
        """
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

    def with_plan(self, plan: Arms | Guards) -> ExperimentConfig:
        """The same subject, seeds and steps under another plan."""
        return replace(self, plan=plan)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, config_json(self))

    @classmethod
    def load(cls, path: Path) -> ExperimentConfig:
        """Read what `save` wrote.

        Raises:
            ResultsError: if there is no such file, or it holds unknown settings.
        """
        if not path.is_file():
            raise ResultsError(
                f"No experiment at {path.parent} (no {path.name}); start one with `revlens reproduce` or "
                "`revlens study`."
            )
        return read_config(path, cls, "experiment configuration")


def organism_experiment(
    track: str = "organism",
    size: Literal["default", "quick", "large"] = "default",
    data_dir: Path | None = None,
    world: int = 0,
    task: str | None = None,
) -> ExperimentConfig:
    """The arms on an organism that comes with revlens.

    A quick one is a smoke run of the whole pipeline: it shows that everything works, not an effect.

    Args:
        track: one of `revlens.organism.TRACKS`.
        size: of the organism.
        data_dir: folder with the track's data, if it needs any.
        world: seed of its world: words, facts and probes.
        task: a benign task of the world; its first if None.

    Raises:
        ConfigError: if there is no such track or task, or see `revlens.organism.Track.organism`.
        DataError: if the data cannot be read.
    """
    if track not in TRACKS:
        raise ConfigError(f"Unknown track {track!r}; expected one of {', '.join(TRACKS)}.")
    organism = TRACKS[track].organism(size, None if data_dir is None else str(data_dir.absolute()))
    organism = replace(organism, world=replace(organism.world, seed=world))
    organism = organism if task is None else organism.with_task(task)
    if size != "quick":
        return ExperimentConfig(subject=organism)
    plan = Arms(arms=("baseline", "block", "push", "random"), n_null_draws=500, n_controls=2)
    steps = (1, organism.benign.steps)
    return ExperimentConfig(subject=organism, seeds=(0, 1), steps=steps, reply_tokens=24, plan=plan)


def quick() -> ExperimentConfig:
    """The smoke run on the embedded organism."""
    return organism_experiment(size="quick")
