"""A training that is resumed ends at the weights of one that never stopped, with a guard of every method."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiers
from revlens.errors import GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import METHODS, Every, Guard, ReversionCallback, Until
from training.trainers import GUARDED, Setting, weights

SAVED = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 3e-3}
WRAPPED = {
    "until": lambda guard: Until(3, guard),
    "until, over": lambda guard: Until(1, guard),
    "every": lambda guard: Every(2, guard),
    "both": lambda guard: Until(3, Every(2, guard)),
}


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


def unbroken_and_resumed(
    setting: Setting, arm: str, folder: Path, wrap: Any = lambda guard: guard, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Guard and monitor of the resumed training are made from the checkpoint's model, if they can be."""
    ends = []
    checkpoint = folder / "checkpoint-2"
    for resume in (None, str(checkpoint)):
        model = setting.model()
        keeps = resume is None or "reference" in METHODS[arm].needs
        made_from = model if keeps else setting.model(checkpoint)
        callback = ReversionCallback(wrap(setting.guard(arm, made_from)), setting.monitor(made_from))
        trainer = setting.trainer(model, folder, callback, **SAVED, **settings)
        trainer.train(resume_from_checkpoint=resume)
        assert callback.monitor is not None
        readings = callback.monitor.readings
        assert [reading.step for reading in readings] == [1, 2, 3, 4]
        ends.append(torch.cat([weights(model), *(reading.drift_norm for reading in readings)]))
    return ends[0], ends[1]


@pytest.mark.parametrize("arm", tiers.guards(GUARDED))
def test_resuming_is_exact(arm: str, setting: Setting, tmp_path: Path) -> None:
    unbroken, resumed = unbroken_and_resumed(setting, arm, tmp_path)
    assert torch.equal(unbroken, resumed)


@pytest.mark.parametrize(
    ("name", "arm"), [*zip(WRAPPED, ("kl", "freeze", "adaptive", "rehearsal"), strict=True)]
)
def test_resuming_is_exact_at_some_updates_only(
    name: str, arm: str, setting: Setting, tmp_path: Path
) -> None:
    accumulated = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    unbroken, resumed = unbroken_and_resumed(
        setting, arm, tmp_path, WRAPPED[name], restore_callback_states_from_checkpoint=True, **accumulated
    )
    assert torch.equal(unbroken, resumed)


class Counting(Guard):
    """A term of zero; knows how often it was asked."""

    calls = 0

    def term(self, model: nn.Module) -> Tensor:
        self.calls += 1
        return 0.0 * next(model.parameters()).sum()


@pytest.mark.parametrize("batches", [1, 3])
def test_until_adds_its_term_at_exactly_n_updates(batches: int, setting: Setting, tmp_path: Path) -> None:
    """Eight batches of one row make updates of 3, 3 and 2 of them."""
    guard, model = Counting(), setting.model()
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": batches}
    setting.trainer(model, tmp_path, ReversionCallback(Until(2, guard)), **settings).train()
    assert guard.calls == 2


def test_a_guard_and_a_monitor_start_anew_at_every_training(setting: Setting, tmp_path: Path) -> None:
    first, second = setting.model(), setting.model()
    guard = setting.guard("adaptive", first)
    assert guard is not None
    callback = ReversionCallback(Until(3, guard), setting.monitor(first))
    for model in (first, second):
        setting.trainer(model, tmp_path, callback).train()
    assert torch.equal(weights(first), weights(second))
    assert callback.monitor is not None
    assert len(callback.monitor.readings) == 4


def test_a_checkpoint_that_has_moved_is_found_by_the_advice(setting: Setting, tmp_path: Path) -> None:
    def trainer_in(folder: Path, **settings: Any) -> Any:
        model = setting.model()
        guard = setting.guard("adaptive", model)
        return setting.trainer(model, folder, ReversionCallback(guard), **SAVED, **settings)

    unbroken = trainer_in(tmp_path / "old")
    unbroken.train()
    elsewhere = str(tmp_path / "new" / "checkpoint-2")
    trainer = trainer_in(tmp_path / "out")  # the run is still where it was
    trainer.train(resume_from_checkpoint=str(tmp_path / "old" / "checkpoint-2"))
    assert torch.equal(weights(trainer.model), weights(unbroken.model))
    shutil.move(tmp_path / "old", tmp_path / "new")
    with pytest.raises(GuardError, match=r"name its folder in TrainingArguments\(resume_from_checkpoint"):
        trainer_in(tmp_path / "out2").train(resume_from_checkpoint=elsewhere)
    trainer = trainer_in(tmp_path / "out3", resume_from_checkpoint=elsewhere)
    trainer.train(resume_from_checkpoint=elsewhere)
    assert torch.equal(weights(trainer.model), weights(unbroken.model))


def test_a_state_that_is_not_the_guards_is_refused(setting: Setting, tmp_path: Path) -> None:
    def train(guard: Guard | None, resume: bool = False, monitored: bool = False) -> None:
        model = setting.model()
        monitor = setting.monitor(model) if monitored else None
        callbacks = [ReversionCallback(guard, monitor)] if guard or monitor else []
        trainer = setting.trainer(model, tmp_path, *callbacks, **SAVED, max_steps=2)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if resume else None)

    model = setting.model()
    block, kl = setting.guard("block", model), setting.guard("kl", model)
    train(None)
    with pytest.raises(GuardError, match=r"update 2 was saved without ReversionCallback\(Block\)"):
        train(block, resume=True)
    train(block)
    with pytest.raises(GuardError, match=r"saved without ReversionCallback\(KLAnchor\)"):
        train(kl, resume=True)
    with pytest.raises(GuardError, match=r"saved without ReversionCallback\(Block, Monitor\)"):
        train(block, resume=True, monitored=True)
    other = setting.guard("block", model, prompts=setting.probes["drift"][:3])
    with pytest.raises(GuardError, match="probes|shape"):
        train(other, resume=True)
    safe = setting.guard("safe_lora", model)
    train(safe)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight += 1.0
    with pytest.raises(GuardError, match="prepared from other weights"):
        train(setting.guard("safe_lora", model), resume=True)


def test_two_callbacks_that_a_checkpoint_cannot_tell_apart(setting: Setting, tmp_path: Path) -> None:
    model = setting.model()
    pair = [ReversionCallback(setting.guard("block", model)) for _ in range(2)]
    setting.trainer(model, tmp_path, *pair, max_steps=1).train()
    with pytest.raises(GuardError, match=r"two callbacks ReversionCallback\(Block\)"):
        setting.trainer(model, tmp_path, *pair, max_steps=1, **SAVED).train()
