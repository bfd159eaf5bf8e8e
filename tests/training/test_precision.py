"""Guards and monitors read a model in the precision of its weights, whatever the task is trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

import tiers
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import ConceptAblation, FinetuneConfig, Guard, ReversionCallback, finetune
from revlens.training.task_tokens import last_prompt_tokens, task_batch
from training.trainers import GUARDED, ROWS, Setting, weights

#: Their terms do not compare with the start.
ELSEWHERE = {"push", "rehearsal", "lisa"}


class Noting(Guard):
    """A guard that writes down another's terms."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.terms = guard, list[float]()

    def __getattribute__(self, name: str) -> Any:
        own = {"guard", "terms", "term", "__dict__", "__class__"}
        return object.__getattribute__(self, name) if name in own else getattr(self.guard, name)

    def term(self, model: nn.Module) -> Tensor | None:
        term = self.guard.term(model)
        self.terms += [] if term is None else [term.item()]
        return term


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


# RESTA adds what alignment changed even to a model that has not moved.
@pytest.mark.parametrize("arm", tiers.guards(arm for arm in GUARDED if arm != "resta"))
def test_a_model_that_does_not_move_has_not_moved(arm: str, setting: Setting, tmp_path: Path) -> None:
    """float32 weights under bf16 autocast, at a learning rate of 0."""
    model = setting.model()
    start, guard, monitor = weights(model), setting.guard(arm, model), setting.monitor(model)
    assert guard is not None
    noting = Noting(guard)
    trainer = setting.trainer(
        model, tmp_path, ReversionCallback(noting, monitor), bf16=True, learning_rate=0.0, max_steps=2
    )
    trainer.train()
    assert torch.equal(weights(model), start)
    for reading in monitor.readings:
        assert not reading.drift_norm.any()
        assert reading.alignment.isnan().all()
    assert arm in ELSEWHERE or not any(noting.terms)
    # A second training in this process finds the model wrapped by the first.
    again = setting.monitor(model)
    torch.testing.assert_close(again.motion.start, monitor.motion.start, rtol=0, atol=0)


@pytest.mark.parametrize("arm", ["block", "projection", "kl", "clamp"])
def test_autocast_around_the_loop_is_for_the_task_alone(arm: str, setting: Setting) -> None:
    bridge = setting.history.aligned.load()
    guard = setting.guard(arm, bridge)
    assert guard is not None
    noting, losses = Noting(guard), list[float]()
    config = FinetuneConfig(steps=2, learning_rate=1e-3, batch_size=4, micro_batch_size=2)
    data = Dataset.from_dict(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        finetune(bridge, data, config, seed=0, guard=noting, on_step=lambda step, loss: losses.append(loss))
    if noting.terms:
        assert noting.terms[0] == 0.0
        assert noting.terms[1] != 0.0
    plain, exact = setting.history.aligned.load(), list[float]()
    guard = setting.guard(arm, plain)
    finetune(plain, data, config, seed=0, guard=guard, on_step=lambda step, loss: exact.append(loss))
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.01)  # the second loss is at the new weights


@pytest.mark.parametrize("arm", ["ablation", "clamp"])
def test_an_ablation_is_exact_under_autocast(arm: str, setting: Setting) -> None:
    model = setting.model()
    guard = setting.guard(arm, model)
    assert isinstance(guard, ConceptAblation)
    kept: dict[int, Tensor] = {}
    inputs = setting.collator([{"row": 0}, {"row": 1}])
    with guard.around_task(model), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for layer in guard.unit:

            def keep(module: nn.Module, args: Any, output: Any, layer: int = layer) -> None:
                kept[layer] = output if isinstance(output, Tensor) else output[0]

            model.model.layers[layer].register_forward_hook(keep)
        with task_batch("the test", inputs):
            model(**inputs)
            edited = last_prompt_tokens() if arm == "clamp" else torch.ones_like(inputs["labels"]).bool()
    for layer, unit in guard.unit.items():
        projection = kept[layer][edited].float() @ unit
        expected = torch.full_like(projection, guard.coordinates[layer])
        torch.testing.assert_close(projection, expected, rtol=1e-4, atol=1e-4)
