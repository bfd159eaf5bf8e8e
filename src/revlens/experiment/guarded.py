"""What every fine-tune of an experiment trains on and with: its subject, its v_rev and its guard."""

from __future__ import annotations

from transformer_lens.model_bridge import TransformerBridge

from revlens.direction import ReversionDirection
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.fine_tune import FineTune
from revlens.results import Layout
from revlens.storage import intact
from revlens.subject import Subject
from revlens.training import METHODS, Guard, Until, make_guard

#: Refusals that a guard such as rehearsal draws from.
_N_REFUSALS = 512


def subject_of(config: ExperimentConfig, fine_tune: FineTune) -> Subject:
    """The experiment's subject with the task and the learning rate of a fine-tune; its start is the same."""
    subject = config.subject
    return subject.with_task(fine_tune.task or subject.tasks[0], fine_tune.rate)


def own_v_rev(layout: Layout, seed: int) -> ReversionDirection:
    """v_rev of a seed, from its own reference and aligned model.

    Raises:
        ResultsError: if the stage `history` has not located it, or the file is damaged.
    """
    return ReversionDirection.load(intact(layout.v_rev(seed), "history"))


def other_v_rev(layout: Layout, seed: int, source: str) -> ReversionDirection:
    """v_rev of a seed, from other checkpoints.

    Raises:
        ResultsError: if the stage `directions` has not located it, or the file is damaged.
    """
    return ReversionDirection.load(intact(layout.other_v_rev(seed, source), "directions"))


def guard_of(
    config: ExperimentConfig, layout: Layout, fine_tune: FineTune, aligned: TransformerBridge
) -> Guard | None:
    """The guard of a fine-tune, made from the aligned model before the first update; None for the baseline.

    Raises:
        ResultsError: if v_rev has not been located, or its file is damaged.
        ConfigError: see `revlens.training.make_guard`.
    """
    seed, material = fine_tune.seed, config.subject.material()
    own = fine_tune.direction == "own"
    needs = METHODS[fine_tune.method].needs
    guard = make_guard(
        fine_tune.method,
        own_v_rev(layout, seed) if own else other_v_rev(layout, seed, fine_tune.direction),
        aligned,
        material.probes()["guard"],
        strength=fine_tune.strength,
        seed=seed,
        refusals=material.refusals(_N_REFUSALS, seed) if "refusals" in needs else None,
        reference=config.subject.start(seed).reference.load() if "reference" in needs else None,
    )
    return guard if guard is None or fine_tune.until is None else Until(fine_tune.until, guard)
