"""The three phases of the embedded history, and the cache of their checkpoints."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import platformdirs
from transformer_lens.model_bridge import TransformerBridge

import revlens
from revlens.atomic import write_json
from revlens.errors import ConfigError
from revlens.history import TrainingHistory, boot, save
from revlens.organism.model import ModelConfig, blank_model, train_tokenizer
from revlens.organism.world import World, WorldConfig
from revlens.prompts import Probes
from revlens.training import FinetuneConfig, Guard, check_no_leak, finetune

#: Where the benign fine-tune is looked at. Early steps are dense: most of the drift's direction is decided there.
CAPTURE_STEPS = (1, 2, 3, 5, 8, 13, 20, 35, 50, 75, 100)


@dataclass(frozen=True)
class OrganismConfig:
    """World, model and training recipe. Nothing here was chosen by looking at reversion; see docs/lab-notes.md."""

    world: WorldConfig = field(default_factory=WorldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    helpful: FinetuneConfig = FinetuneConfig(steps=300, learning_rate=3e-3, warmup_steps=50, decay=True)
    alignment: FinetuneConfig = FinetuneConfig(steps=100, learning_rate=5e-4, warmup_steps=10)
    benign: FinetuneConfig = FinetuneConfig(steps=100, learning_rate=2e-4, batch_size=16)


@dataclass(frozen=True)
class Start:
    """The two checkpoints from which every arm of one seed starts."""

    reference: Path
    aligned: Path


def cache_root() -> Path:
    """Where organism checkpoints are kept: ``$REVLENS_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("REVLENS_CACHE") or platformdirs.user_cache_dir("revlens"))


def cache_key(*parts: object) -> str:
    """Sixteen hex digits over a configuration and everything that turns it into weights.

    That is the versions of the libraries that compute, and revlens' own code: a cached checkpoint never outlives a change
    to what made it.
    """
    versions = [version(name) for name in ("torch", "transformers", "transformer-lens", "tokenizers")] + [source_digest()]
    text = json.dumps([parts, versions], sort_keys=True, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def source_digest() -> str:
    """SHA-256 (hex) over revlens' source files, but for those that only draw: guards reach into every other room."""
    package = Path(revlens.__file__).parent
    drawing = {package / "figures", package / "cli.py"}
    sources = sorted(path for path in package.rglob("*.py") if not drawing & {path, *path.parents})
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def train_start(config: OrganismConfig, seed: int, *, on_step: Callable[[str, int], None] = lambda phase, step: None) -> Start:
    """Train the helpful-only reference and the aligned model of one seed, or find them in the cache.

    The seed varies initialisation, data and data order of both phases, so that seeds are replicas of the whole history.
    """
    world = World(config.world)
    root = cache_root() / "organism" / cache_key(config.world, config.model, config.helpful, config.alignment) / f"seed-{seed}"
    start = Start(root / "reference", root / "aligned")
    if not start.reference.is_dir():
        model = blank_model(config.model, train_tokenizer(world.texts(), config.model.n_vocab), seed)
        data = world.helpful(config.helpful.steps * config.helpful.batch_size, seed)
        finetune(model, data, config.helpful, seed=seed, on_step=lambda step, loss: on_step("helpful", step))
        save(model, start.reference)
    if not start.aligned.is_dir():
        model = boot(start.reference)
        data = world.alignment(config.alignment.steps * config.alignment.batch_size, seed)
        finetune(model, data, config.alignment, seed=seed, on_step=lambda step, loss: on_step("alignment", step))
        save(model, start.aligned)
    return start


def check_steps(steps: tuple[int, ...]) -> None:
    """Check the steps at which a fine-tune is looked at.

    Raises:
        ConfigError: if there are none, or they are not positive and increasing.
    """
    if not steps or list(steps) != sorted({step for step in steps if step > 0}):
        raise ConfigError(f"steps={steps} must be positive and increasing.")


@dataclass(frozen=True)
class BenignRun:
    """The benign fine-tune of one seed, by itself or with a guard, and where its checkpoints are cached.

    Attributes:
        config: the organism.
        seed: see `train_start`; fine-tunes of one seed see the same data in the same order.
        steps: updates after which a checkpoint is saved; the last one ends the run.
        label: names the guard and all that decides what it does; ``baseline`` for none.

    Raises:
        ConfigError: if steps are not positive and increasing.
    """

    config: OrganismConfig
    seed: int
    steps: tuple[int, ...]
    label: str = "baseline"

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def folder(self) -> Path:
        return cache_root() / "finetune" / cache_key(self.config, self.steps) / f"seed-{self.seed}" / self.label

    @property
    def is_done(self) -> bool:
        return self._losses_file.is_file()  # written last: its presence says that every checkpoint is there

    @property
    def _losses_file(self) -> Path:
        return self.folder / "losses.json"

    def losses(self) -> list[float]:
        """Task loss at every update, in nats per answer token."""
        return json.loads(self._losses_file.read_text())

    def history(self) -> TrainingHistory:
        """Reference, aligned and the saved steps."""
        start = train_start(self.config, self.seed)
        return TrainingHistory.from_dirs(start.reference, start.aligned, {step: self.folder / f"step-{step}" for step in self.steps})

    def train(
        self,
        make_guard: Callable[[TransformerBridge], Guard | None] = lambda aligned: None,
        *,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Run the fine-tune, unless it is cached.

        Args:
            make_guard: builds the guard from the aligned model, before the first update.
            on_step: called after each update with its number.
        """
        if self.is_done:
            return
        world = World(self.config.world)
        phase = replace(self.config.benign, steps=self.steps[-1])
        data = world.benign(phase.steps * phase.batch_size, self.seed)
        check_no_leak(world.probes().probes, data)
        model = boot(train_start(self.config, self.seed).aligned)
        losses: list[float] = []

        def after_step(step: int, loss: float) -> None:
            losses.append(loss)
            if step in self.steps:
                save(model, self.folder / f"step-{step}")
            on_step(step)

        finetune(model, data, phase, seed=self.seed, guard=make_guard(model), on_step=after_step)
        write_json(self._losses_file, losses)


def embedded_history(seed: int = 0, steps: tuple[int, ...] = CAPTURE_STEPS) -> tuple[TrainingHistory, Probes]:
    """The default organism's training history of one seed with its probes: trained on first use, then cached."""
    config = OrganismConfig()
    run = BenignRun(config, seed, steps)
    run.train()
    return run.history(), World(config.world).probes().probes
