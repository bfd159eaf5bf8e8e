"""The stage that every plan begins with: each seed's reference and aligned model, and v_rev between them."""

from __future__ import annotations

from revlens.activations import read_prompts
from revlens.behaviour import check_answered
from revlens.direction import ReversionDirection
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import evaluate_checkpoint
from revlens.experiment.units import Start, Tick
from revlens.results import Layout
from revlens.storage import listed_file, write_listed_json

_SPLIT = "direction"


def work(config: ExperimentConfig, layout: Layout, start: Start, tick: Tick) -> None:
    """Train the reference and the aligned model if they are not cached, judge both, and locate v_rev.

    Raises:
        ProbeError: if all replies of one of them end inside their thinking.
    """
    subject, seed = config.subject, start.seed
    checkpoints = subject.start(seed, on_step=lambda phase, step: tick())
    if layout.v_rev(seed).is_file() and layout.start_behaviour(seed).is_file():
        return
    material = subject.material()
    records, activations = [], []
    for checkpoint in checkpoints:
        evaluation, model = evaluate_checkpoint(
            checkpoint, material, config.reply_tokens, batch_size=subject.batch_size
        )
        for replies in evaluation.replies.values():
            check_answered(replies)
        records.append(evaluation.record(phase=checkpoint.phase))
        activations.append(
            read_prompts(model, material.probes()[_SPLIT], batch_size=min(64, subject.batch_size))
        )
    v_rev = ReversionDirection.fit(*activations, split=_SPLIT)
    reference_norm = activations[0].mean(0).norm(dim=-1)
    records[-1]["relative_gap"] = float((v_rev.gap / reference_norm).mean())
    write_listed_json(layout.start_behaviour(seed), records)
    with listed_file(layout.v_rev(seed)) as partial:
        v_rev.save(partial)


def n_ticks(config: ExperimentConfig, start: Start) -> int:
    """One for each update, and one where there is nothing to train."""
    return max(1, config.subject.n_start_updates)
