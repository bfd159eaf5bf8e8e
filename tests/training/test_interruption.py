"""Whatever ends a training, everything that a guard has put on the model comes off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback

import tiers
from revlens.errors import ConfigError, GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import FinetuneConfig, FreezeLayers, ReversionCallback, finetune
from training.trainers import GUARDED, ROWS, Setting, weights

EVENTS = [
    "on_train_begin", "on_epoch_begin", "on_step_begin", "on_substep_end", "on_pre_optimizer_step",
    "on_optimizer_step", "on_step_end", "on_log", "on_prediction_step", "on_evaluate", "on_save",
    "on_epoch_end", "on_train_end",
]  # fmt: skip


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


def stopping_at(event: str, error: BaseException) -> TrainerCallback:
    def stop(self: TrainerCallback, *args: Any, **kwargs: Any) -> None:
        raise error

    return type("Stopping", (TrainerCallback,), {event: stop})()


def traces(model: nn.Module) -> list[Any]:
    """Hooks and flags."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [*hooks, *(p.requires_grad for p in model.parameters())]


@pytest.mark.parametrize(("event", "late"), [(event, i % 2 == 0) for i, event in enumerate(EVENTS)])
def test_an_interrupted_trainer_leaves_a_plain_model(
    event: str, late: bool, setting: Setting, tmp_path: Path
) -> None:
    model, error = setting.model(), KeyboardInterrupt()
    before, callback = traces(model), ReversionCallback(setting.guard("freeze", model))
    settings = {
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 1,
        "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
        "logging_strategy": "steps", "logging_steps": 1,
    }  # fmt: skip
    trainer = setting.trainer(model, tmp_path, *([] if late else [callback]), **settings)
    if late:
        trainer.add_callback(callback)
    trainer.add_callback(stopping_at(event, error))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert traces(model) == before
    patched = [*vars(trainer).values(), *vars(trainer.callback_handler).values()]
    assert not any(type(value).__name__ == "_Watched" for value in patched)


@pytest.mark.parametrize(
    ("arm", "where"),
    tiers.guards((arm, ("forward", "backward")[i % 2]) for i, arm in enumerate(GUARDED)),
)
def test_an_interrupted_pass_leaves_a_plain_model_that_trains_again(
    arm: str, where: str, setting: Setting, tmp_path: Path
) -> None:
    """In a Trainer amid an accumulated update, then in the loop on a bridge, then to the end."""
    model, bridge = setting.model(), setting.history.aligned.load()
    bridge(torch.tensor([[1, 2]]))  # its own hooks come with its first pass
    for trained, layer in ((model, model.model.layers[1]), (bridge, bridge.blocks[1])):
        guard, before = setting.guard(arm, trained), traces(trained)
        assert guard is not None

        def interrupt(module: nn.Module, *args: Any) -> None:
            if torch.is_grad_enabled() and module.training:  # the task, not the probes
                raise SystemExit

        handle = (
            layer.register_forward_hook(interrupt)
            if where == "forward"
            else layer.register_full_backward_hook(lambda module, *args: (_ for _ in ()).throw(SystemExit()))
        )
        with pytest.raises(SystemExit):
            if trained is model:
                settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
                setting.trainer(model, tmp_path, ReversionCallback(guard), **settings).train()
            else:
                run(bridge, guard)
        handle.remove()
        assert traces(trained) == before
    start = weights(bridge)
    run(bridge, guard)  # the Trainer that broke off amid an update must not stop these updates
    assert not torch.equal(weights(bridge), start)


def run(bridge: Any, guard: Any) -> None:
    finetune(
        bridge,
        Dataset.from_dict(ROWS),
        FinetuneConfig(steps=1, learning_rate=1e-2, batch_size=2),
        seed=0,
        guard=guard,
    )


def test_a_training_that_cannot_begin_thaws(setting: Setting) -> None:
    bridge = setting.history.aligned.load()
    bridge.requires_grad_(False)
    bridge.blocks[1].requires_grad_(True)
    before = traces(bridge)
    with pytest.raises(ConfigError, match="nothing to train"):
        run(bridge, FreezeLayers((1,)))
    assert traces(bridge) == before


def test_one_guard_for_two_models_says_so(setting: Setting, tmp_path: Path) -> None:
    guard, first, second = FreezeLayers((1,)), setting.model(), setting.model()
    trainers = [setting.trainer(model, tmp_path, ReversionCallback(guard)) for model in (first, second)]
    with pytest.raises(GuardError, match="the guard has begun with another model"):
        trainers[0].train()
    assert all(p.requires_grad for p in [*first.parameters(), *second.parameters()])
