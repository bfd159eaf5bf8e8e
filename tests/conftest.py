"""A tiny organism, trained for a few updates once a session: enough for every path, not for an effect."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import tiers
from families import FAMILIES, small_model
from revlens.experiment import (
    Arms,
    ArmTables,
    ExperimentConfig,
    FineTune,
    Guards,
    GuardTables,
    analyse_and_save,
    run_experiment,
    tabulate,
)
from revlens.history import TrainingHistory
from revlens.organism import ModelConfig, OrganismConfig, World, WorldConfig
from revlens.prompts import Probes
from revlens.results import Layout
from revlens.storage import sole_writer
from revlens.subject import BenignRun
from revlens.sweeps import InThisProcess
from revlens.training import ARMS, FinetuneConfig

TINY_WORLD = WorldConfig(
    n_illicit=4,
    n_dual_use=3,
    n_ordinary=4,
    n_protected=5,
    n_plain=15,
    n_values=4,
    n_direction=8,
    n_drift=8,
    n_behaviour=6,
    n_guard=4,
    n_harmless=6,
    n_task_test=6,
)
TINY = OrganismConfig(
    world=TINY_WORLD,
    model=ModelConfig(d_model=16, n_layers=3, n_heads=2, d_mlp=32, n_vocab=576),
    helpful=FinetuneConfig(steps=12, learning_rate=1e-2, batch_size=8),
    alignment=FinetuneConfig(steps=6, learning_rate=5e-3, batch_size=8),
    benign=FinetuneConfig(steps=5, learning_rate=1e-3, batch_size=8),
)
#: Of two layers: the studies of causality take most of the time, and do everything at each layer.
TINY_EXPERIMENT = ExperimentConfig(
    subject=replace(TINY, model=replace(TINY.model, n_layers=2)),
    seeds=(0, 1),
    steps=(1, 3),
    reply_tokens=4,
    plan=Arms(arms=ARMS, n_null_draws=200, n_controls=2),
)

#: Two arms of one seed of a still smaller organism: every stage, at the least cost.
SMALL = ExperimentConfig(
    subject=replace(
        TINY,
        world=replace(TINY.world, n_direction=6, n_drift=6, n_behaviour=4, n_harmless=4, n_task_test=4),
        model=replace(TINY.model, n_layers=2),
        helpful=replace(TINY.helpful, steps=6),
        alignment=replace(TINY.alignment, steps=3),
    ),
    seeds=(0,), steps=(1, 3), reply_tokens=2,
    plan=Arms(arms=("baseline", "block"), n_null_draws=50, n_controls=1),
)  # fmt: skip


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session share; what is in it stays as it was made."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_a_private_cache(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)  # as in the pipeline's workers; xdist runs several
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVLENS_CACHE", str(shared / "cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def world() -> World:
    return World(TINY_WORLD)


@pytest.fixture(scope="session")
def probes(world: World) -> Probes:
    return world.probes()


@pytest.fixture(scope="session")
def history(_one_thread_and_a_private_cache: None) -> TrainingHistory:
    run = BenignRun(TINY, seed=0, steps=(1, 3))
    run.train()
    return run.history()


@pytest.fixture(scope="session")
def config() -> ExperimentConfig:
    return TINY_EXPERIMENT


def fine_tune_of(config: ExperimentConfig, seed: int, label: str) -> FineTune:
    """One of an experiment's fine-tunes."""
    (found,) = (f for f in config.fine_tunes() if (f.seed, f.label) == (seed, label))
    return found


def done_once(config: ExperimentConfig, out: Path) -> Layout:
    """Every stage of an experiment; of several test processes the first one runs them, the others wait."""
    with sole_writer(out, wait=True):
        done = out.with_suffix(".done")
        if not done.exists():
            run_experiment(config, out, on=InThisProcess())
            done.touch()
    return Layout(out)


@pytest.fixture(scope="session")
def layout(config: ExperimentConfig, shared: Path, _one_thread_and_a_private_cache: None) -> Layout:
    """Every stage of the tiny experiment."""
    return done_once(config, shared / "tiny-experiment")


@pytest.fixture(scope="session")
def _tabulated(config: ExperimentConfig, layout: Layout) -> ArmTables:
    tables = tabulate(config, layout)
    assert isinstance(tables, ArmTables)
    return tables


@pytest.fixture(scope="module")
def results(_tabulated: ArmTables) -> ArmTables:
    """Its tables; a module of tests may change them."""
    return ArmTables({name: table.copy() for name, table in _tabulated.tables.items()})


@pytest.fixture(scope="module")
def analysed(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment with its results, in a folder that a module of tests may change."""
    out = tmp_path_factory.mktemp("analysed") / "out"
    shutil.copytree(layout.out, out)
    analyse_and_save(out)
    return out


@pytest.fixture(scope="session")
def study(config: ExperimentConfig) -> ExperimentConfig:
    """A quick study of the tiny experiment's subject."""
    return config.with_plan(Guards.quick(config))


@pytest.fixture(scope="session")
def studied(study: ExperimentConfig, shared: Path, _one_thread_and_a_private_cache: None) -> Layout:
    """Every stage of it."""
    return done_once(study, shared / "tiny-study")


@pytest.fixture(scope="session")
def _study_tabulated(study: ExperimentConfig, studied: Layout) -> GuardTables:
    tables = tabulate(study, studied)
    assert isinstance(tables, GuardTables)
    return tables


@pytest.fixture(scope="module")
def study_tables(_study_tabulated: GuardTables) -> GuardTables:
    """Its tables; a module of tests may change them."""
    return GuardTables({name: table.copy() for name, table in _study_tabulated.tables.items()})


@pytest.fixture
def no_static_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Chromium, where there is one, takes longer than all the rest; `tests/figures` draws with it."""
    monkeypatch.setattr("revlens.figures.export._static_images", lambda figures, folder: None)


@pytest.fixture
def aligned(history: TrainingHistory) -> TransformerBridge:
    """A fresh copy of the aligned model, free to be trained or broken."""
    return history.aligned.load()


@pytest.fixture
def other_width(tmp_path: Path) -> Path:
    """A checkpoint of another architecture than the tiny organism's."""
    config = replace(TINY, model=replace(TINY.model, d_model=32), helpful=replace(TINY.helpful, steps=1))
    return config.start(0).reference.path


@pytest.fixture(params=tiers.families(FAMILIES))
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    """A small random model of each architecture family."""
    return small_model(request.param)


@pytest.fixture
def llama() -> TransformerBridge:
    return small_model("llama")
