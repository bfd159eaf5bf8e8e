"""Concept ablation holds the coordinate along v_rev during the task's passes, and only then.

`test_task_tokens` has the form that holds it at last prompt tokens alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from revlens.history import TrainingHistory
from revlens.hooks import ablate, record_projections
from revlens.prompts import Probes
from revlens.training import ConceptAblation, ProbeMotion
from training.fine_tunes import located


def test_ablation_holds_the_coordinate_during_the_task_alone(
    history: TrainingHistory, probes: Probes
) -> None:
    v_rev = located(history, probes["direction"])
    motion = ProbeMotion.along(v_rev, history.aligned.load(), probes["guard"])
    model = history.aligned.load()
    tokens = torch.tensor([[5, 6, 7, 8]])
    plain = model(tokens)
    clamp = ConceptAblation.clamping(motion)
    for guard in (ConceptAblation.ablating(motion), replace(clamp, at_last_prompt=False)):
        with guard.around_task(model), record_projections(model, v_rev) as projections:
            edited = model(tokens)
        for layer in motion.layers:
            torch.testing.assert_close(
                projections[layer],
                torch.full_like(projections[layer], guard.coordinates[layer]),
                rtol=1e-4,
                atol=1e-5,
            )
        assert not torch.equal(edited, plain)
        assert torch.equal(model(tokens), plain)
    with ConceptAblation.ablating(motion).around_task(model):
        ablated = model(tokens)
    with ablate(model, v_rev):
        torch.testing.assert_close(ablated, model(tokens))
