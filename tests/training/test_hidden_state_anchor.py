"""The hidden-state anchor in exact cases."""

from __future__ import annotations

import pytest

from revlens.activations import Sites, read_prompts
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import HiddenStateAnchor
from training.fine_tunes import trained


def test_the_anchor_is_the_mean_squared_distance_of_each_probe(
    history: TrainingHistory, probes: Probes
) -> None:
    aligned, tuned = history.aligned.load(), history[3].load()
    guard = HiddenStateAnchor.at(aligned, probes["guard"], 3.0, layers=(1, 2))
    assert guard.term(aligned).item() == 0.0
    moved = read_prompts(tuned, probes["guard"], Sites(layers=(1, 2))) - read_prompts(
        aligned, probes["guard"], Sites(layers=(1, 2))
    )
    assert guard.term(tuned).item() == pytest.approx(3.0 * moved.square().sum(-1).mean().item(), rel=1e-3)


def test_it_holds_what_it_anchors(history: TrainingHistory, probes: Probes) -> None:
    aligned = history.aligned.load()
    measure, guard = (HiddenStateAnchor.at(aligned, probes["guard"], strength) for strength in (1.0, 100.0))
    held, free = (measure.term(trained(history, g)).item() for g in (guard, None))
    assert held < 0.7 * free
