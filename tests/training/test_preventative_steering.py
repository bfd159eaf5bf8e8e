"""Preventative steering adds to the task's stream and to nothing else, and leaves the model standing off."""

from __future__ import annotations

import math

import pytest
import torch

from revlens.causal import Action, Intervention
from revlens.errors import ConfigError, GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import FinetuneConfig, PreventativeSteering, ProbeMotion, finetune
from training.fine_tunes import DATA, located, motion_along, trained


def test_at_one_layer_it_is_the_addition_of_the_causal_tests(
    history: TrainingHistory, probes: Probes
) -> None:
    v_rev = located(history, probes["direction"])
    model = history.aligned.load()
    motion = ProbeMotion.along(v_rev, model, probes["guard"], layers=(1,))
    guard = PreventativeSteering.along(motion, 0.7)
    tokens = torch.tensor([[5, 6, 7, 8]])
    add = Intervention(Action("add", 0.7), motion.unit, motion.gap, (1,), motion.start)
    with add.on(model, (1,), tokens="all"):
        expected = model(tokens)
    plain = model(tokens)
    with guard.around_task(model):
        torch.testing.assert_close(model(tokens), expected)
    assert torch.equal(model(tokens), plain)
    assert not torch.allclose(expected, plain)


def test_what_probes_read_never_has_the_addition(history: TrainingHistory, probes: Probes) -> None:
    motion = motion_along(history, probes["direction"], probes["guard"])
    seen = []

    class Probed(PreventativeSteering):
        def term(self, model: torch.nn.Module) -> None:
            seen.append(motion.displacement(model).detach())

    config = FinetuneConfig(steps=1, learning_rate=1e-3, batch_size=4)
    finetune(history.aligned.load(), DATA, config, seed=0, guard=Probed.along(motion, 1.0))
    assert seen[0].abs().max() == 0.0


def test_the_model_stands_off_when_the_addition_is_gone(history: TrainingHistory, probes: Probes) -> None:
    motion = motion_along(history, probes["direction"], probes["guard"])
    free, steered = (
        motion.displacement(trained(history, guard)).detach().mean()
        for guard in (None, PreventativeSteering.along(motion, 2.0))
    )
    assert steered < free


@pytest.mark.parametrize("dose", [0.0, -1.0, math.inf, math.nan])
def test_a_dose_is_positive_and_finite(dose: float) -> None:
    with pytest.raises(ConfigError, match=f"dose={dose} is a share of the gap"):
        PreventativeSteering(torch.ones(1, 4), torch.ones(1), (0,), dose)


def test_a_state_of_other_layers_is_refused() -> None:
    one, other = (
        PreventativeSteering(torch.ones(1, 4), torch.ones(1), layers, 1.0) for layers in ((0,), (2,))
    )
    with pytest.raises(GuardError, match=r"steered at layers \[0\], this guard at \[2\]"):
        other.load_state_dict(one.state_dict())
