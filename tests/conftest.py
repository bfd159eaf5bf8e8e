"""A tiny organism, trained for a few updates once a session: enough for every path, not for an effect."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from families import FAMILIES, small_model
from revlens.experiment import STAGES, ExperimentConfig, Layout, Results, analyse
from revlens.experiment.run import prepare
from revlens.experiment.stages import run_arm, run_start
from revlens.history import TrainingHistory
from revlens.organism import ModelConfig, OrganismConfig, World, WorldConfig
from revlens.prompts import Probes
from revlens.subject import BenignRun
from revlens.training import FinetuneConfig

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
TINY_EXPERIMENT = ExperimentConfig(
    subject=TINY, seeds=(0, 1), steps=(1, 3), reply_tokens=4, n_null_draws=200, n_controls=2
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_a_private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)  # as in the pipeline's workers; xdist runs several
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
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


@pytest.fixture(scope="session")
def layout(
    config: ExperimentConfig, _one_thread_and_a_private_cache: None, tmp_path_factory: pytest.TempPathFactory
) -> Layout:
    """Every stage of the tiny experiment, run in this process."""
    out = (
        tmp_path_factory.getbasetemp() / "tiny-experiment"
    )  # what other tests have run there is not run again
    prepare(config, out)
    for seed in config.seeds:
        run_start(STAGES, config, out, seed, lambda stage: None)
        for arm in config.arms:
            run_arm(STAGES, config, out, seed, arm, lambda stage: None)
    return Layout(out)


@pytest.fixture(scope="module")
def results(config: ExperimentConfig, layout: Layout) -> Results:
    """Its tables; a module of tests may change them."""
    return analyse(config, layout)


@pytest.fixture
def aligned(history: TrainingHistory) -> TransformerBridge:
    """A fresh copy of the aligned model, free to be trained or broken."""
    return history.aligned.load()


@pytest.fixture
def other_width(tmp_path: Path) -> Path:
    """A checkpoint of another architecture than the tiny organism's."""
    config = replace(TINY, model=replace(TINY.model, d_model=32), helpful=replace(TINY.helpful, steps=1))
    return config.start(0).reference.path


@pytest.fixture(params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    """A small random model of each architecture family."""
    return small_model(request.param)


@pytest.fixture
def llama() -> TransformerBridge:
    return small_model("llama")
