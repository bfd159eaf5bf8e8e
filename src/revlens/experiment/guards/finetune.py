"""The stage that does one fine-tune of a study: trained, watched on the way, judged at its marks, and asked
where its effect lies.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from revlens.errors import NonFiniteError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import evaluate
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import guard_of, own_v_rev, subject_of
from revlens.experiment.guards.route import measure_route
from revlens.experiment.units import Tick
from revlens.results import Layout
from revlens.storage import write_listed_json
from revlens.subject import benign_start
from revlens.training import KLAnchor, Monitor, Reading, finetune


def work(config: ExperimentConfig, layout: Layout, fine_tune: FineTune, tick: Tick) -> None:
    """Do one fine-tune, unless what it leaves is there.

    The fine-tune itself is not cached: its record is what is kept. One whose loss or activations stop being
    finite leaves a record that says so: too strong a guard is a result of the grid.
    """
    seed, label = fine_tune.seed, fine_tune.label
    clamp_mean_is_there = not fine_tune.leaves_clamp_mean or layout.clamp_mean(seed, label).is_file()
    if layout.record(seed, label).is_file() and clamp_mean_is_there:
        return
    record: dict[str, Any] = {
        "fine_tune": asdict(fine_tune),
        "failed": None,
        "readings": [],
        "behaviour": [],
        "route": [],
    }
    try:
        _train(config, layout, fine_tune, record, tick)
    except NonFiniteError as error:
        record |= {"failed": str(error), "route": []}
    write_listed_json(layout.record(seed, label), record)


def _train(
    config: ExperimentConfig, layout: Layout, fine_tune: FineTune, record: dict[str, Any], tick: Tick
) -> None:
    subject, seed = subject_of(config, fine_tune), fine_tune.seed
    assert subject.benign is not None
    material, v_rev = subject.material(), own_v_rev(layout, seed)
    probes = material.probes()
    model, data = benign_start(subject, seed, fine_tune.horizon)
    guard = guard_of(config, layout, fine_tune, model)
    monitor = Monitor.along(v_rev, model, probes["drift"])
    # The divergence of the first answer token on the same probes, as another predictor of harm.
    anchor = KLAnchor.at(model, probes["drift"], 1.0)
    observed = fine_tune.readings

    def after_step(step: int, loss: float) -> None:
        if step in observed:
            kl = anchor.divergence(model)
            reading = {"step": step, "loss": loss, "kl": kl, **_means(monitor.read(model, step))}
            if not all(math.isfinite(value) for value in reading.values() if value is not None):
                raise NonFiniteError(
                    f"The probes' activations or logits are no longer finite after update {step}: {reading}."
                )
            record["readings"].append(reading)
        if step in fine_tune.marks:
            evaluation = evaluate(model, material, config.reply_tokens, batch_size=subject.batch_size)
            record["behaviour"].append(evaluation.record(step=step))
        tick()

    recipe = replace(subject.benign, steps=fine_tune.steps)
    finetune(model, data, recipe, seed=seed, guard=guard, on_step=after_step)
    if fine_tune.route:
        record["route"] = measure_route(config, layout, fine_tune, v_rev, model)


def _means(reading: Reading) -> dict[str, float | None]:
    """Means over layers; a layer that has not moved (a frozen one) has no alignment to be averaged."""
    moved = reading.alignment[reading.drift_norm > 0]
    return {
        "alignment": float(moved.mean()) if len(moved) else None,
        "displacement": float(reading.displacement.mean()),
        "fraction": float(reading.fraction.mean()),
        "drift_norm": float(reading.drift_norm.mean()),
    }


def n_ticks(config: ExperimentConfig, fine_tune: FineTune) -> int:
    """One for each update."""
    return fine_tune.steps
