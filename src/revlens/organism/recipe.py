"""The embedded history's recipe: how a seed's reference and aligned model are trained, and what follows them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError
from revlens.history import TrainingHistory, boot, save
from revlens.organism.model import ModelConfig, blank_model, train_tokenizer
from revlens.organism.text import TextWorld, TextWorldConfig
from revlens.organism.world import TASKS, World, WorldConfig
from revlens.prompts import Probes
from revlens.storage import sole_writer
from revlens.subject import BenignRun, cache_key, cache_root
from revlens.training import FinetuneConfig, finetune

#: Where the benign fine-tune is looked at. Early steps are dense: most of the drift's direction is decided there.
CAPTURE_STEPS = (1, 2, 3, 5, 8, 13, 20, 35, 50, 75, 100)

_TEXT_MODEL = ModelConfig(d_model=192, n_layers=4, n_heads=4, d_mlp=512, n_vocab=2048, n_ctx=256)
_LARGE_TEXT_MODEL = ModelConfig(d_model=640, n_layers=10, n_heads=10, d_mlp=1792, n_vocab=8192, n_ctx=256)
#: A wider model has the machine, or its GPU, to itself.
_WIDEST_IN_PARALLEL = 256


@dataclass(frozen=True)
class OrganismConfig:
    """World, model and training recipe: a `Subject`. Nothing here was chosen by looking at reversion; see docs/lab-notes.md.

    Attributes:
        world: where prompts and data come from.
        model: its size.
        helpful, alignment, benign: optimizer and schedule of the three phases.
        task: which of `TASKS` the benign phase of a `World` is about.

    Raises:
        ConfigError: on an unknown task; a `TextWorld` has one task only.
    """

    world: WorldConfig | TextWorldConfig = field(default_factory=WorldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    helpful: FinetuneConfig = FinetuneConfig(steps=300, learning_rate=3e-3, warmup_steps=50, decay=True)
    alignment: FinetuneConfig = FinetuneConfig(steps=100, learning_rate=5e-4, warmup_steps=10)
    benign: FinetuneConfig = FinetuneConfig(steps=100, learning_rate=2e-4, batch_size=16)
    task: str = TASKS[0]

    def __post_init__(self) -> None:
        if self.task not in self.tasks:
            raise ConfigError(f"Unknown benign task {self.task!r}; expected one of {', '.join(self.tasks)}.")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benign tasks that the world has, the default first."""
        return TASKS if isinstance(self.world, WorldConfig) else TASKS[:1]

    @property
    def other_histories(self) -> tuple[str, ...]:
        """Other sources of v_rev that its start has."""
        return ("early-reference", "other-alignment", "other-seed")

    def with_task(self, task: str, rate: float) -> OrganismConfig:
        """The same start with another benign task (its own if empty) and a multiple of its learning rate."""
        benign = replace(self.benign, learning_rate=self.benign.learning_rate * rate)
        return replace(self, task=task or self.task, benign=benign)

    def halved(self, source: str) -> OrganismConfig:
        """The subject with half the updates in the phase that one of `other_histories` names."""
        phase = {"early-reference": "helpful", "other-alignment": "alignment"}[source]
        recipe = getattr(self, phase)
        steps = max(1, recipe.steps // 2)
        return replace(
            self, **{phase: replace(recipe, steps=steps, warmup_steps=min(recipe.warmup_steps, steps))}
        )

    @property
    def summary(self) -> str:
        """Size, kind of harm, and what a run is."""
        model = f"A {self.model.n_layers}-layer Llama of width {self.model.d_model}"
        harm = (
            "symbolic (made-up words)"
            if isinstance(self.world, WorldConfig)
            else "requests in plain English, without harmful answers"
        )
        return (
            f"{model}; each run is pretrained, aligned and fine-tuned from its own seed. Harm here is {harm}."
        )

    @property
    def varies_start(self) -> bool:
        """Every seed trains a history of its own."""
        return True

    @property
    def n_start_updates(self) -> int:
        """Updates of the two phases before the benign one."""
        return self.helpful.steps + self.alignment.steps

    @property
    def batch_size(self) -> int:
        """A small model spends its time on the number of decoding steps, not on the rows."""
        return 256

    @property
    def parallel(self) -> bool:
        """Organisms are small, but for the large real-text one."""
        return self.model.d_model <= _WIDEST_IN_PARALLEL

    def material(self) -> World | TextWorld:
        """The world that the configuration names.

        Raises:
            ConfigError: see `World` and `TextWorld`.
            DataError: see `TextWorld`.
        """
        return (
            _text_world(self.world)
            if isinstance(self.world, TextWorldConfig)
            else World(self.world, self.task)
        )

    def start(
        self, seed: int, *, on_step: Callable[[str, int], None] = lambda phase, step: None
    ) -> TrainingHistory:
        """Train the helpful-only reference and the aligned model of one seed, or find them in the cache.

        The seed varies initialisation, data and data order of both phases, so that seeds are replicas of the whole history. Where
        another process is training this seed, it is waited for.
        """
        root = (
            cache_root()
            / "organism"
            / cache_key(self.world, self.model, self.helpful, self.alignment)
            / f"seed-{seed}"
        )
        reference, aligned = root / "reference", root / "aligned"
        if not (reference.is_dir() and aligned.is_dir()):
            with sole_writer(root, wait=True):
                self._train_start(seed, reference, aligned, on_step)
        return TrainingHistory.from_dirs(reference, aligned)

    def _train_start(
        self, seed: int, reference: Path, aligned: Path, on_step: Callable[[str, int], None]
    ) -> None:
        """Each phase whose model is not there."""
        world = self.material()
        if not reference.is_dir():
            model = blank_model(self.model, train_tokenizer(world.texts(), self.model.n_vocab), seed)
            data = world.helpful(self.helpful.steps * self.helpful.batch_size, seed)
            finetune(
                model, data, self.helpful, seed=seed, on_step=lambda step, loss: on_step("helpful", step)
            )
            save(model, reference)
        if not aligned.is_dir():
            model = boot(reference)
            data = world.alignment(self.alignment.steps * self.alignment.batch_size, seed)
            finetune(
                model, data, self.alignment, seed=seed, on_step=lambda step, loss: on_step("alignment", step)
            )
            save(model, aligned)

    def trainee(self, seed: int) -> TransformerBridge:
        """The aligned model of a seed, to be trained in full."""
        return self.start(seed).aligned.load()

    def observed(self, seed: int) -> None:
        """The benign fine-tune is always trained here."""
        return


@functools.cache  # it reads and compares some thirty thousand rows
def _text_world(config: TextWorldConfig) -> TextWorld:
    return TextWorld(config)


def text_organism(data_dir: str, *, large: bool = False) -> OrganismConfig:
    """The real-text organism on the data of a folder: about two million parameters, or sixty for a GPU.

    Raises:
        DataError: see `TextWorldConfig.of`.
    """
    return OrganismConfig(
        world=TextWorldConfig.of(data_dir),
        model=_LARGE_TEXT_MODEL if large else _TEXT_MODEL,
        helpful=FinetuneConfig(
            steps=1500, learning_rate=2e-3, batch_size=16, warmup_steps=50, decay=True, sort_window=16
        ),
        alignment=FinetuneConfig(steps=100, learning_rate=5e-4, warmup_steps=10, sort_window=16),
        benign=FinetuneConfig(steps=100, learning_rate=2e-4, batch_size=16, sort_window=16),
    )


def embedded_history(seed: int = 0, steps: tuple[int, ...] = CAPTURE_STEPS) -> tuple[TrainingHistory, Probes]:
    """The default organism's training history of one seed with its probes: trained on first use, then cached."""
    config = OrganismConfig()
    run = BenignRun(config, seed, steps)
    run.train()
    return run.history(), config.material().probes()
