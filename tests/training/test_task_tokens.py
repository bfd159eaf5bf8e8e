"""The last prompt tokens of a batch: found from its labels, held by a clamp, and named if there are none."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from revlens.errors import GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import ConceptAblation
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import ChatBatch
from revlens.training.task_tokens import last_prompt_tokens, task_batch
from training.trainers import Setting

NO = -100
#: Labels, what else a trainer has, and (row, position) of the last prompt tokens.
BATCHES: dict[str, tuple[list[list[int]], dict[str, list[list[int]]], list[tuple[int, int]]]] = {
    "right-padded": (
        [[NO, NO, NO, 7, 8, NO], [NO, NO, 7, NO, NO, NO]],
        {"attention_mask": [[1] * 5 + [0], [1] * 3 + [0] * 3]},
        [(0, 2), (1, 1)],
    ),
    "left-padded": (
        [[NO, NO, NO, NO, 7, 8], [NO, NO, NO, 7, 8, 9]],
        {"attention_mask": [[0, 0, 1, 1, 1, 1], [1] * 6]},
        [(0, 3), (1, 2)],
    ),
    "two turns": ([[NO, NO, 7, NO, NO, 8]], {}, [(0, 1), (0, 4)]),
    "packed": (
        [[NO, NO, 7, NO, NO, 8]],
        {"position_ids": [[0, 1, 2, 0, 1, 2]]},
        [(0, 1), (0, 4)],
    ),
    "one row without": ([[NO, NO, 7, 8], [5, 6, 7, 8]], {}, [(0, 1)]),
}
#: Batches with the loss on every token.
WITHOUT = {
    "plain": ([[5, 6, 7, 8]], {}),
    "packed": ([[NO, 6, 7, NO, 5, 8]], {"position_ids": [[0, 1, 2, 0, 1, 2]]}),
    "left-padded": ([[NO, NO, 5, 6]], {"attention_mask": [[0, 0, 1, 1]]}),
    "without loss": ([[NO, NO, NO]], {}),
}


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


def inputs_of(labels: list[list[int]], more: dict[str, list[list[int]]]) -> dict[str, Tensor]:
    return {"labels": torch.tensor(labels)} | {name: torch.tensor(rows) for name, rows in more.items()}


@pytest.mark.parametrize("name", BATCHES)
def test_last_prompt_tokens_are_found_in_every_layout(name: str) -> None:
    labels, more, expected = BATCHES[name]
    with task_batch("A", inputs_of(labels, more)):
        assert last_prompt_tokens().nonzero().tolist() == [list(place) for place in expected]


@pytest.mark.parametrize("name", WITHOUT)
def test_a_batch_without_any_is_named(name: str) -> None:
    with task_batch("A", inputs_of(*WITHOUT[name])), pytest.raises(GuardError, match="in a batch of A"):
        last_prompt_tokens()


def test_a_pass_whose_labels_are_not_known_is_named(setting: Setting) -> None:
    with pytest.raises(GuardError, match="labels are not known"):
        last_prompt_tokens()
    for inputs in ({"input_ids": torch.ones(1, 2)}, [1], {"labels": None}):
        with (
            task_batch("A", inputs),
            pytest.raises(GuardError, match="A computes its loss from batches with"),
        ):
            last_prompt_tokens()
    with task_batch("A", {"labels": torch.ones(2)}), pytest.raises(GuardError, match=r"labels of A.*\(2,\)"):
        last_prompt_tokens()
    model, bridge = setting.model(), setting.history.aligned.load()
    tokens = torch.tensor([[5, 6, 7]])
    for one in (model, bridge):
        with clamp_of(setting, one).around_task(one):
            with pytest.raises(GuardError, match="labels are not known"):
                one(tokens)
            labels = {"labels": torch.tensor([[NO, NO, 7, 8]])}
            with task_batch("A", labels), pytest.raises(GuardError, match=r"reads \(1, 3\).*shape \(1, 4\)"):
                one(tokens)
        one(tokens)


def clamp_of(setting: Setting, model: nn.Module) -> ConceptAblation:
    guard = setting.guard("clamp", model)
    assert isinstance(guard, ConceptAblation)
    return guard


def streams(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The stream after every layer, as hooks that come after the guard's see it."""
    kept: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda m, a, out: kept.append(out)) for layer in model.model.layers]
    with torch.no_grad():
        model(**{name: tensor for name, tensor in inputs.items() if name != "labels"})
    for hook in hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("name", ["right-padded", "left-padded", "two turns", "packed"])
def test_a_clamp_holds_the_coordinate_at_these_tokens_and_edits_no_other(name: str, setting: Setting) -> None:
    labels, more, places = BATCHES[name]
    inputs, model = inputs_of(labels, more), setting.model()
    inputs["input_ids"] = torch.randint(
        5, 30, inputs["labels"].shape, generator=torch.Generator().manual_seed(0)
    )
    guard = clamp_of(setting, model)
    with guard.around_task(model), task_batch("A", inputs):
        held = streams(model, inputs)

    def by_hand(layer: int, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        out = out.clone()
        for place in places:
            out[place] += (guard.coordinates[layer] - out[place] @ guard.unit[layer]) * guard.unit[layer]
        return out

    for layer in guard.unit:
        model.model.layers[layer].register_forward_hook(partial(by_hand, layer))
    expected, plain = streams(model, inputs), streams(setting.model(), inputs)
    elsewhere = torch.ones_like(inputs["labels"], dtype=torch.bool)
    for layer, unit in guard.unit.items():
        torch.testing.assert_close(held[layer], expected[layer], rtol=1e-4, atol=1e-4)
        for place in places:
            elsewhere[place] = False
            assert float(held[layer][place] @ unit) == pytest.approx(guard.coordinates[layer], abs=1e-4)
            assert abs(float(plain[layer][place] @ unit) - guard.coordinates[layer]) > 1e-3
    assert torch.equal(held[0][elsewhere], plain[0][elsewhere])


def test_the_own_loop_says_which_tokens_they_are(setting: Setting) -> None:
    """A bridge and a Hugging Face model have the same loss under the clamp, which is not the plain one."""
    rows = [setting.collator([{"row": row}]) for row in (0, 2)]
    batch = ChatBatch(*(torch.cat([row[name] for row in rows]) for name in ("input_ids", "labels")))
    losses = []
    for model in (setting.history.aligned.load(), setting.model()):
        with clamp_of(setting, model).around_task(model):
            losses.append(answer_loss(model, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(answer_loss(model, batch).item() - losses[0]) > 1e-3


def test_checkpointed_layers_see_the_same_tokens_when_they_run_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward pass, in which they do, comes after the loss, so no labels are known in it."""

    def gradient(model: Any) -> Tensor:
        inputs = setting.collator([{"row": 0}, {"row": 2}])
        with clamp_of(setting, model).around_task(model.train()):
            with task_batch("A", inputs):
                loss = model(**inputs, use_cache=False).loss
            loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    plain = gradient(setting.model())
    model = setting.model()
    model.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradient(model), plain)
    # transformers 5.23 keeps hooks out of the part that runs again; others have had them in it.
    model, n_calls = setting.model(), 0
    layer = type(model.model.layers[0])

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        def run(*args: Any) -> Any:
            nonlocal n_calls
            n_calls += self.training  # the guard's probes are read in evaluation mode
            return nn.Module.__call__(self, *args, **kwargs)

        return checkpoint(run, *args, use_reentrant=False)

    monkeypatch.setattr(layer, "__call__", call)
    torch.testing.assert_close(gradient(model), plain)
    assert n_calls == 2 * len(model.model.layers)


def test_the_tokens_are_part_of_the_state(setting: Setting) -> None:
    model = setting.model()
    clamp, ablation = clamp_of(setting, model), setting.guard("ablation", model)
    assert isinstance(ablation, ConceptAblation)
    clamp.load_state_dict(clamp.state_dict())
    for guard, other, held in ((clamp, ablation, "every token"), (ablation, clamp, "last prompt tokens")):
        with pytest.raises(GuardError, match=f"is resumed held the coordinate at {held}, this"):
            guard.load_state_dict(other.state_dict())
