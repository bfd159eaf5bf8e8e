from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from revlens.errors import ProbeError
from revlens.history import TrainingHistory
from revlens.organism import TASKS, ModelConfig, OrganismConfig, World, WorldConfig, recipe
from revlens.organism.model import organism_model, train_tokenizer
from revlens.subject import BenignRun, benign, cache, cache_key
from revlens.training import FinetuneConfig, Guard

TINY = OrganismConfig(
    world=WorldConfig(
        n_illicit=3,
        n_dual_use=3,
        n_ordinary=3,
        n_protected=4,
        n_plain=6,
        n_values=3,
        n_direction=2,
        n_drift=2,
        n_behaviour=2,
        n_guard=2,
        n_harmless=2,
        n_task_test=2,
    ),
    model=ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32, n_vocab=400),
    helpful=FinetuneConfig(steps=6, learning_rate=1e-2, batch_size=4),
    alignment=FinetuneConfig(steps=4, learning_rate=5e-3, batch_size=4),
    benign=FinetuneConfig(steps=5, learning_rate=1e-3, batch_size=4),
)


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def history() -> TrainingHistory:
    run = BenignRun(TINY, seed=0, steps=(1, 3))
    run.train()
    return run.history()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(recipe, "finetune", fail)
    monkeypatch.setattr(benign, "finetune", fail)


class Still(Guard):
    """A guard that adds nothing."""

    def term(self, model: nn.Module) -> Tensor:
        return 0.0 * next(model.parameters()).sum()


def stop_at(phase: str, update: int) -> Callable[[str, int], None]:
    def on_step(now: str, step: int) -> None:
        if (now, step) == (phase, update):
            raise Interrupted

    return on_step


def same(first: Path, second: Path) -> bool:
    one, other = (load_file(path / "model.safetensors") for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def variants(config: Any) -> list[Any]:
    """Copies of a configuration with one value changed in each, down to the last nested field."""
    changed = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            others = variants(value)
        elif isinstance(value, bool):
            others = [not value]
        elif value is None:
            others = [1]
        elif isinstance(value, str):
            others = [TASKS[-1]]
        else:
            others = [value + 1 if isinstance(value, int) else value / 2 or 0.5]
        changed += [replace(config, **{field.name: other}) for other in others]
    return changed


def test_a_start_is_trained_once(history: TrainingHistory, no_training: None) -> None:
    start = TINY.start(0)
    assert (start.reference, start.aligned) == (history.reference, history.aligned)
    with pytest.raises(AssertionError, match="trained again"):
        TINY.start(99)


def test_a_run_is_trained_once(history: TrainingHistory, no_training: None) -> None:
    run = BenignRun(TINY, seed=0, steps=(1, 3))
    assert run.is_done
    run.train()
    with pytest.raises(AssertionError, match="trained again"):
        BenignRun(TINY, seed=0, steps=(1, 2)).train()


def test_seeds_are_replicas_of_the_whole_history(history: TrainingHistory) -> None:
    other = TINY.start(1)
    assert not same(history.reference.path, other.reference.path)
    assert not same(history.aligned.path, other.aligned.path)
    assert (other.aligned.path / "tokenizer.json").read_text() == (
        history.aligned.path / "tokenizer.json"
    ).read_text()


def test_seeds_differ_from_their_first_weights_on() -> None:
    still = replace(
        TINY,
        helpful=replace(TINY.helpful, steps=1, learning_rate=1e-12),
        alignment=replace(TINY.alignment, steps=1),
    )
    one, other = (load_file(still.start(seed).reference.path / "model.safetensors") for seed in (0, 1))
    assert (one["model.embed_tokens.weight"] - other["model.embed_tokens.weight"]).abs().median() > 0.01


def test_both_phases_of_a_start_move_the_weights_and_are_told(own_cache: Path) -> None:
    seen_updates: list[tuple[str, int]] = []
    start = TINY.start(0, on_step=lambda phase, step: seen_updates.append((phase, step)))
    assert seen_updates == [("helpful", i + 1) for i in range(6)] + [("alignment", i + 1) for i in range(4)]
    assert not same(start.reference.path, start.aligned.path)


def test_an_interrupted_start_goes_on_from_its_last_phase(own_cache: Path, history: TrainingHistory) -> None:
    with pytest.raises(Interrupted):
        TINY.start(0, on_step=stop_at("alignment", 2))
    seen_updates: list[str] = []
    start = TINY.start(0, on_step=lambda phase, step: seen_updates.append(phase))
    assert set(seen_updates) == {"alignment"}
    assert own_cache in start.aligned.path.parents
    assert same(start.reference.path, history.reference.path)
    assert same(start.aligned.path, history.aligned.path)


def test_a_history_has_the_steps_of_its_run(history: TrainingHistory) -> None:
    run = BenignRun(TINY, seed=0, steps=(1, 3))
    assert [checkpoint.name for checkpoint in run.history()] == ["reference", "aligned", "step-1", "step-3"]
    assert len(run.losses()) == 3
    assert not same(history.aligned.path, history[1].path)
    assert not same(history[1].path, history[3].path)


def test_an_interrupted_run_is_not_done_and_runs_again_to_the_same_weights(history: TrainingHistory) -> None:
    unbroken, broken = (
        BenignRun(TINY, seed=0, steps=(1, 3)),
        BenignRun(TINY, seed=0, steps=(1, 3), label="broken"),
    )

    def on_step(step: int) -> None:
        if step == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        broken.train(on_step=on_step)
    assert (broken.folder / "step-1").is_dir()
    assert not broken.is_done
    broken.train()
    assert broken.is_done
    assert broken.losses() == unbroken.losses()
    assert same(broken.history()[1].path, history[1].path)
    assert same(broken.history()[3].path, history[3].path)


def test_a_guard_is_made_from_the_aligned_model_and_gets_a_folder_of_its_own(
    history: TrainingHistory,
) -> None:
    baseline, guarded = (
        BenignRun(TINY, seed=0, steps=(1, 3)),
        BenignRun(TINY, seed=0, steps=(1, 3), label="still"),
    )
    seen: list[Tensor] = []

    def make_guard(aligned: TransformerBridge) -> Still:
        seen.extend(w.detach().clone() for w in aligned.parameters())
        return Still()

    seen_updates: list[int] = []
    guarded.train(make_guard, on_step=seen_updates.append)
    assert seen_updates == [1, 2, 3]
    assert all(torch.equal(w, s) for w, s in zip(history.aligned.load().parameters(), seen, strict=True))
    assert guarded.folder != baseline.folder
    assert same(
        guarded.history()[3].path, baseline.history()[3].path
    )  # same data, same order: a guard of zero is the baseline


def test_a_probe_in_the_benign_data_stops_the_run(
    history: TrainingHistory, monkeypatch: pytest.MonkeyPatch, no_training: None
) -> None:
    probe = TINY.material().probes()["drift"][0]
    leaky = Dataset.from_dict({"prompt": [probe] * 8, "answer": ["Sure."] * 8})
    monkeypatch.setattr(World, "benign", lambda self, n, seed: leaky)
    run = BenignRun(TINY, seed=0, steps=(1,))
    with pytest.raises(ProbeError, match="of split 'drift' is in the training data"):
        run.train()
    assert not run.is_done


def test_any_change_of_the_configuration_changes_the_cache_key() -> None:
    configs = [TINY, *variants(TINY)]
    assert len(configs) == 1 + 14 + 6 + 3 * 9 + 1
    assert len({cache_key(config) for config in configs}) == len(configs)
    assert cache_key(TINY, (1, 3)) != cache_key(TINY, (1, 2)) != cache_key(TINY)
    assert cache_key(OrganismConfig()) == cache_key(OrganismConfig())


@pytest.mark.parametrize("library", ["torch", "transformers", "transformer-lens", "tokenizers", "peft"])
def test_another_version_of_a_library_changes_the_cache_key(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before = cache_key(TINY)
    monkeypatch.setattr(cache, "version", lambda name: "0.0" if name == library else version(name))
    assert cache_key(TINY) != before


def test_another_source_changes_the_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key(TINY)
    monkeypatch.setattr(cache, "source_digest", lambda kind: "another source")
    assert cache_key(TINY) != before


def test_a_change_of_the_benign_phase_keeps_the_start(history: TrainingHistory, no_training: None) -> None:
    changed = replace(TINY, benign=replace(TINY.benign, learning_rate=1e-4))
    assert changed.start(0).aligned == history.aligned
    assert BenignRun(changed, seed=0, steps=(1, 3)).folder != BenignRun(TINY, seed=0, steps=(1, 3)).folder


def test_the_seed_fixes_a_organism_model_and_leaves_the_global_generator_alone(world: World) -> None:
    # A tokenizer for each, because booting a bridge changes the tokenizer it is given.
    tokenizers = [train_tokenizer(world.texts(), TINY.model.n_vocab) for _ in range(3)]
    state = torch.get_rng_state()
    first, again, other = (
        organism_model(TINY.model, t, seed).W_E.detach()
        for t, seed in zip(tokenizers, (0, 0, 1), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return train_tokenizer(world.texts(), TINY.model.n_vocab)


@given(text=st.text(max_size=20))
def test_any_text_can_be_encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
