"""Lisa's turns: on refusals alone, on the task alone, and both near the weights at the last switch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from revlens.errors import ConfigError, GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import Every, FinetuneConfig, Lisa, ReversionCallback, Until, finetune
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import ChatBatch, batches
from training.fine_tunes import DATA, REFUSALS, trained, weights
from training.trainers import DEFAULTS, Setting


class Recording(Lisa):
    """Keeps the weights before each update, and the gradient that the optimizer gets."""

    def begin(self, model: nn.Module) -> None:
        super().begin(model)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def before_update(self, model: nn.Module) -> None:
        self.kept.append((weights(model), gradient(model)))


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


def loss_gradient(history: TrainingHistory, at: Tensor, batch: ChatBatch) -> Tensor:
    model = history.aligned.load()
    torch.nn.utils.vector_to_parameters(at, model.parameters())
    answer_loss(model, batch).backward()
    return gradient(model)


def test_each_update_has_the_gradient_of_its_state(history: TrainingHistory) -> None:
    strength, tokenizer = 5.0, history.aligned.load().tokenizer
    guard = Recording(REFUSALS, strength, 0, on_refusals=2, on_task=1, rows=1)
    config = FinetuneConfig(steps=6, learning_rate=3e-3, batch_size=4, max_grad_norm=1e9, micro_batch_size=2)
    finetune(history.aligned.load(), DATA, config, seed=0, guard=guard)
    refusals = batches(tokenizer, REFUSALS, batch_size=1, seed=0)
    task = batches(tokenizer, DATA, batch_size=4, seed=0)
    states = ["refusals", "refusals", "task"] * 2
    switches = [0, 0, 2, 3, 3, 5]  # the update before which the weights of the last switch were
    for (at, found), state, switch in zip(guard.kept, states, switches, strict=True):
        batch = next(task)  # the task's data go on in either state
        chosen = next(refusals) if state == "refusals" else batch
        expected = loss_gradient(history, at, chosen) + strength * (at - guard.kept[switch][0])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_the_proximal_term_holds_the_weights_back(history: TrainingHistory) -> None:
    start = weights(history.aligned.load())
    far, near = (
        (weights(trained(history, Lisa(REFUSALS, strength, 0))) - start).norm() for strength in (1e-3, 1e3)
    )
    assert near < 0.9 * far


def test_it_learns_to_refuse_where_turns_are_on_refusals(history: TrainingHistory) -> None:
    tokenizer = history.aligned.load().tokenizer
    batch = next(batches(tokenizer, REFUSALS, batch_size=2, seed=0))
    guard = Lisa(REFUSALS, 0.01, 0, on_refusals=3, on_task=1)
    assert answer_loss(trained(history, guard), batch) < 0.9 * answer_loss(trained(history, None), batch)


def test_until_ends_its_turns_and_every_is_refused(history: TrainingHistory) -> None:
    guard = Lisa(REFUSALS, 1.0, 0, on_refusals=1, on_task=1)
    once, again = (weights(trained(history, Until(2, guard))) for _ in range(2))
    assert torch.equal(once, again)
    for wrapped in (guard, Until(3, guard)):
        with pytest.raises(ConfigError, match=r"cannot skip any; use it without Every"):
            Every(2, wrapped)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_preference_training_learns_nothing_of_the_task_in_a_turn_on_refusals(
    history: TrainingHistory, probes: Probes, tmp_path: Path
) -> None:
    """One update by SGD on refusals alone is that of the refusals, whatever the Trainer's loss."""
    setting = Setting(history, probes)
    model = setting.adapted()
    expected = setting.adapted()
    guard = Lisa(REFUSALS, 1.0, 0, tokenizer=setting.tokenizer)
    data = Dataset.from_dict({"prompt": ["A?"] * 8, "chosen": ["No."] * 8, "rejected": ["Sure."] * 8})
    settings = {name: value for name, value in DEFAULTS.items() if name != "remove_unused_columns"}
    args = DPOConfig(
        output_dir=str(tmp_path), **{**settings, "max_steps": 1, "max_grad_norm": 0.0}, bf16=False
    )
    DPOTrainer(
        model=model, args=args, train_dataset=data, processing_class=setting.tokenizer,
        callbacks=[ReversionCallback(guard)],
    ).train()  # fmt: skip
    batch = next(batches(setting.tokenizer, REFUSALS, batch_size=2, seed=0))
    answer_loss(expected, batch).backward()
    for name, parameter in expected.named_parameters():
        if parameter.requires_grad:
            moved = parameter.detach() - DEFAULTS["learning_rate"] * parameter.grad
            torch.testing.assert_close(model.get_parameter(name).detach(), moved, rtol=1e-4, atol=1e-7)


def test_turns_and_refusals_are_checked() -> None:
    with pytest.raises(ConfigError, match="on_refusals=0 and on_task=9 must be at least 1"):
        Lisa(REFUSALS, 1.0, 0, on_refusals=0)
    with pytest.raises(GuardError, match="No refusals to train on"):
        Lisa(REFUSALS.select([]), 1.0, 0)
