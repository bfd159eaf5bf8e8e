from __future__ import annotations

import threading
import weakref

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.prefetch import each_loaded
from revlens.errors import HistoryError
from revlens.history import TrainingHistory
from revlens.history.checkpoint import Checkpoint


class Loads:
    """Which checkpoints have been loaded, and how many models were alive at most when one had been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded = {name: threading.Event() for name in ("reference", "aligned", "step-1", "step-3")}
        self.alive: list[weakref.ref[TransformerBridge]] = []
        self.most = 0
        load = Checkpoint.load

        def followed(checkpoint: Checkpoint) -> TransformerBridge:
            model = load(checkpoint)
            self.alive.append(weakref.ref(model))
            self.most = max(self.most, sum(ref() is not None for ref in self.alive))
            self.loaded[checkpoint.name].set()
            return model

        monkeypatch.setattr(Checkpoint, "load", followed)


def test_the_next_checkpoint_loads_while_one_is_used(
    history: TrainingHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, checkpoints, used = Loads(monkeypatch), list(history), []

    def use(checkpoint: Checkpoint, model: TransformerBridge) -> None:
        used.append((checkpoint.name, float(next(model.parameters()).detach().sum())))
        if checkpoint is not checkpoints[-1]:
            assert loads.loaded[checkpoints[checkpoints.index(checkpoint) + 1].name].wait(timeout=120)

    each_loaded(checkpoints, use)
    assert loads.most == 2
    monkeypatch.undo()
    assert used == [(c.name, float(next(c.load().parameters()).detach().sum())) for c in checkpoints]


def test_one_checkpoint_loads_at_a_time_without_room_or_in_another_dtype(
    history: TrainingHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, loads = list(history)[:2], Loads(monkeypatch)

    def use(checkpoint: Checkpoint, model: TransformerBridge) -> None:
        assert loads.loaded["aligned"].is_set() == (checkpoint.name == "aligned")

    monkeypatch.setattr("revlens.activations.prefetch._free_memory", lambda: 0)
    each_loaded(checkpoints, use)
    assert loads.most == 1
    monkeypatch.undo()
    loads = Loads(monkeypatch)
    in_half = TrainingHistory.from_sources(
        history.reference.source, history.aligned.source, dtype=torch.bfloat16
    )
    each_loaded(list(in_half), use)
    assert loads.most == 1


def test_a_checkpoint_that_fails_to_load_leaves_those_before_it_used(
    history: TrainingHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, used = Checkpoint.load, []

    def failing(checkpoint: Checkpoint) -> TransformerBridge:
        if checkpoint.name == "aligned":
            raise HistoryError("cut off")
        return load(checkpoint)

    monkeypatch.setattr(Checkpoint, "load", failing)
    with pytest.raises(HistoryError, match="cut off"):
        each_loaded(list(history), lambda checkpoint, model: used.append(checkpoint.name))
    assert used == ["reference"]
