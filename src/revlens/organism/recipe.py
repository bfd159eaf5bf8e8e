"""What an organism is, how its start is trained, and the tracks: the organisms that come with revlens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from revlens.errors import ConfigError
from revlens.history import Checkpoint, TrainingHistory, boot, save
from revlens.organism.model import ModelConfig, organism_model, round_to_bfloat16, train_tokenizer
from revlens.organism.shipped import recipe_digest, shipped_reference
from revlens.organism.text_world import TextWorld, TextWorldConfig
from revlens.organism.world import TASKS, World, WorldConfig
from revlens.prompts import Probes
from revlens.storage import make_once
from revlens.subject import CAPTURE_STEPS, BenignRun, cache_key, cache_root
from revlens.training import FinetuneConfig, finetune

#: A wider model has the machine, or its GPU, to itself.
_WIDEST_IN_PARALLEL = 256
#: By source of v_rev, the phase whose updates are halved.
_HALVED = {"early-reference": "helpful", "other-alignment": "alignment"}


@dataclass(frozen=True)
class OrganismConfig:
    """World, model and training recipe: a `Subject`.

    No value here was chosen by looking at reversion; see docs/lab-notes.md.

    Attributes:
        world: the source of prompts and data.
        model: its size.
        helpful, alignment, benign: optimizer and schedule of the three phases.
        task: the benign task, one of the world's.

    Raises:
        ConfigError: on a task that the world does not have.
    """

    world: WorldConfig | TextWorldConfig = field(default_factory=WorldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    helpful: FinetuneConfig = FinetuneConfig(steps=1200, learning_rate=3e-3, warmup_steps=50, decay=True)
    alignment: FinetuneConfig = FinetuneConfig(steps=100, learning_rate=5e-4, warmup_steps=10)
    benign: FinetuneConfig = FinetuneConfig(steps=100, learning_rate=2e-4, batch_size=16)
    task: str = TASKS[0]

    def __post_init__(self) -> None:
        if self.task not in self.world.tasks:
            raise ConfigError(
                f"Unknown benign task {self.task!r}; expected one of {', '.join(self.world.tasks)}."
            )

    @property
    def summary(self) -> str:
        """Size, kind of harm, and what a run is."""
        model = f"A {self.model.n_layers}-layer Llama of width {self.model.d_model}"
        return (
            f"{model}; each run is pretrained, aligned and fine-tuned from its own seed. "
            f"Harm here is {self.world.harm}."
        )

    @property
    def caveat(self) -> str | None:
        """Says that it is not the default organism; None if it is its track's default or large one."""
        track, world = TRACKS[self.world.track], self.world.standard
        with_first_task = replace(self, task=self.world.tasks[0])
        if with_first_task in [make(world) for make in (track.default, track.large) if make]:
            return None
        return (
            "Not the default organism: this shows that the pipeline works, and is no result about reversion."
        )

    @property
    def varies_start(self) -> bool:
        """True: every seed trains a history of its own."""
        return True

    @property
    def n_start_updates(self) -> int:
        """Updates of the two phases before the benign one."""
        return self.helpful.steps + self.alignment.steps

    @property
    def batch_size(self) -> int:
        """256: a small model spends its time on the number of decoding steps, not on the rows."""
        return 256

    @property
    def parallel(self) -> bool:
        """True for all but the large real-text organism."""
        return self.model.d_model <= _WIDEST_IN_PARALLEL

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benign tasks of the world, the configured one first."""
        return (self.task, *(task for task in self.world.tasks if task != self.task))

    @property
    def other_histories(self) -> tuple[str, ...]:
        """A reference or an alignment of half the updates from the same initial weights, or another seed."""
        return (*_HALVED, "other-seed")

    def with_task(self, task: str, rate: float = 1.0) -> OrganismConfig:
        """The same start with another benign task, and ``rate`` times the learning rate.

        Raises:
            ConfigError: on a task that the world does not have.
        """
        benign = replace(self.benign, learning_rate=self.benign.learning_rate * rate)
        return replace(self, task=task, benign=benign)

    def halved(self, source: str) -> OrganismConfig:
        """The organism with half the updates in the phase that the source of v_rev is about.

        Raises:
            ConfigError: on a source that is not about a phase.
        """
        if source not in _HALVED:
            raise ConfigError(
                f"No phase is halved for a v_rev from {source!r}; expected one of {', '.join(_HALVED)}."
            )
        phase: FinetuneConfig = getattr(self, _HALVED[source])
        steps = max(1, phase.steps // 2)
        half: dict[str, Any] = {
            _HALVED[source]: replace(phase, steps=steps, warmup_steps=min(phase.warmup_steps, steps))
        }
        return replace(self, **half)

    def describe(self) -> str | None:
        """None: all checkpoints are trained here."""
        return None

    def material(self) -> World | TextWorld:
        """The world that the configuration names.

        Raises:
            ConfigError: see `World` and `TextWorld`.
            DataError: see `TextWorld`.
        """
        return self.world.build(self.task)

    def start(
        self, seed: int, *, on_step: Callable[[str, int], None] = lambda phase, step: None
    ) -> TrainingHistory:
        """Train the helpful-only reference and the aligned model of one seed, or find them in the cache.

        The seed varies initialisation, data and data order of both phases, so that seeds are replicas of the
        whole history. Waits if another process is training this seed.
        """
        parts = (self.world, self.model, self.helpful)
        reference = _folder(seed, *parts) / "reference"
        aligned = _folder(seed, *parts, self.alignment) / "aligned"
        make_once(reference, lambda: save(self._reference(seed, on_step), reference))
        make_once(aligned, lambda: save(self._aligned(seed, reference, on_step), aligned))
        return TrainingHistory.from_dirs(reference, aligned)

    @property
    def reference_digest(self) -> str:
        """SHA-256 (hex) over what a reference is trained from, except its seed."""
        return self._digest(self._tokenizer())

    def _digest(self, tokenizer: PreTrainedTokenizerFast) -> str:
        return recipe_digest(tokenizer, self.world, self.model, self.helpful)

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return train_tokenizer(self.material().texts(), self.model.n_vocab)

    def _reference(self, seed: int, on_step: Callable[[str, int], None]) -> TransformerBridge:
        """The model after the first phase: one that ships, or trained here."""
        tokenizer = self._tokenizer()
        shipped = shipped_reference(self._digest(tokenizer), seed)
        model = organism_model(self.model, tokenizer, seed, shipped)
        if shipped is None:
            data = self.material().helpful(self.helpful.steps * self.helpful.batch_size, seed)
            finetune(
                model, data, self.helpful, seed=seed, on_step=lambda step, loss: on_step("helpful", step)
            )
            # As a reference ships: what starts from it is the same, whether it was trained here or not.
            round_to_bfloat16(model)
        return model

    def _aligned(self, seed: int, reference: Path, on_step: Callable[[str, int], None]) -> TransformerBridge:
        """The model after the alignment phase."""
        model = boot(reference)
        data = self.material().alignment(self.alignment.steps * self.alignment.batch_size, seed)
        finetune(
            model, data, self.alignment, seed=seed, on_step=lambda step, loss: on_step("alignment", step)
        )
        return model

    def start_key(self, seed: int) -> str:
        """Empty: the world and the recipe say it all."""
        return ""

    def trainee(self, seed: int, phase: Literal["reference", "aligned"] = "aligned") -> TransformerBridge:
        """The model of a seed's phase, to be trained in full."""
        start: Checkpoint = getattr(self.start(seed), phase)
        return start.load()

    def observed(self, seed: int) -> None:
        """None: the benign fine-tune is always trained here."""
        return


def _folder(seed: int, *parts: object) -> Path:
    """Where a model is cached that is trained from these parts of a configuration."""
    return cache_root() / "organism" / cache_key(*parts, kind="start") / f"seed-{seed}"


@dataclass(frozen=True)
class Track:
    """A kind of organism that comes with revlens, in its sizes.

    Attributes:
        name: its key in `TRACKS`, which is also the `track` of its world's configuration.
        summary: what its harm is made of, for the command line's help.
        world: configuration of its world; the argument is the data folder, None without one.
        default: the organism on a world.
        quick: a smaller one, for a smoke run of the pipeline; ``benign.steps`` is short as well.
        large: a larger one, for a GPU; None if there is none.
        needs_data: whether its world is read from a data folder.
    """

    name: str
    summary: str
    world: Callable[[Any], Any]
    default: Callable[[Any], OrganismConfig]
    quick: Callable[[Any], OrganismConfig]
    large: Callable[[Any], OrganismConfig] | None = None
    needs_data: bool = False

    def organism(
        self, size: Literal["default", "quick", "large"] = "default", data_dir: str | None = None
    ) -> OrganismConfig:
        """The organism of a size, on the data of a folder if the track needs one.

        Raises:
            ConfigError: if the track does not have the size, or a data folder is missing or of no use.
            DataError: see `TextWorldConfig.of`.
        """
        if self.needs_data and data_dir is None:
            raise ConfigError(f"The {self.name} track needs a data folder (--data-dir); see docs/data.md.")
        if not self.needs_data and data_dir is not None:
            raise ConfigError(
                f"The {self.name} track reads no data folder; leave out --data-dir {data_dir}, "
                f"or choose --track {' or '.join(t.name for t in TRACKS.values() if t.needs_data)}."
            )
        make = {"default": self.default, "quick": self.quick, "large": self.large}[size]
        if make is None:
            raise ConfigError(
                f"The {self.name} track has no large organism; leave out --large, "
                f"or choose --track {' or '.join(t.name for t in TRACKS.values() if t.large)}."
            )
        return make(self.world(data_dir))


def _quick(world: WorldConfig) -> OrganismConfig:
    small = replace(
        world,
        n_illicit=5, n_dual_use=5, n_ordinary=8, n_protected=8, n_plain=36, n_values=12,
        n_direction=24, n_drift=24, n_behaviour=24, n_guard=16, n_harmless=24, n_task_test=24,
    )  # fmt: skip
    return OrganismConfig(
        world=small,
        model=ModelConfig(d_model=64, n_layers=2, d_mlp=128, n_vocab=768),
        helpful=FinetuneConfig(steps=120, learning_rate=6e-3, batch_size=16, warmup_steps=15, decay=True),
        alignment=FinetuneConfig(steps=40, learning_rate=1e-3, batch_size=16, warmup_steps=5),
        benign=replace(OrganismConfig().benign, steps=10),
    )


def _text(world: TextWorldConfig) -> OrganismConfig:
    """About two million parameters."""
    return OrganismConfig(
        world=world,
        model=ModelConfig(d_model=192, n_layers=4, n_heads=4, d_mlp=512, n_vocab=2048, n_ctx=256),
        helpful=FinetuneConfig(
            steps=1500, learning_rate=2e-3, batch_size=16, warmup_steps=50, decay=True, sort_window=16
        ),
        alignment=FinetuneConfig(steps=100, learning_rate=5e-4, warmup_steps=10, sort_window=16),
        benign=FinetuneConfig(steps=100, learning_rate=2e-4, batch_size=16, sort_window=16),
        task=world.tasks[0],
    )


def _large_text(world: TextWorldConfig) -> OrganismConfig:
    """About sixty million parameters."""
    model = ModelConfig(d_model=640, n_layers=10, n_heads=10, d_mlp=1792, n_vocab=8192, n_ctx=256)
    return replace(_text(world), model=model)


def _quick_text(world: TextWorldConfig) -> OrganismConfig:
    text = _text(
        replace(world, n_direction=24, n_drift=24, n_behaviour=24, n_guard=12, n_harmless=24, n_task_test=12)
    )
    return replace(
        text,
        model=ModelConfig(d_model=64, n_layers=3, n_heads=4, d_mlp=128, n_vocab=1024, n_ctx=256),
        helpful=replace(text.helpful, steps=60),
        alignment=replace(text.alignment, steps=20),
        benign=replace(text.benign, steps=5),
    )


#: Every track by name, the default first.
TRACKS: Mapping[str, Track] = {
    track.name: track
    for track in (
        Track(
            "organism",
            "made-up words",
            world=lambda data_dir: WorldConfig(),
            default=OrganismConfig,
            quick=_quick,
        ),
        Track(
            "text",
            "real text",
            world=TextWorldConfig.of,
            default=_text,
            quick=_quick_text,
            large=_large_text,
            needs_data=True,
        ),
    )
}


def embedded_history(seed: int = 0, steps: tuple[int, ...] = CAPTURE_STEPS) -> tuple[TrainingHistory, Probes]:
    """History and probes of one seed of the default organism; trained on first use, then cached."""
    config = OrganismConfig()
    run = BenignRun(config, seed, steps)
    run.train()
    return run.history(), config.material().probes()
