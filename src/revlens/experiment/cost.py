"""What an experiment will cost, before any of it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from revlens.activations import read_prompts
from revlens.behaviour import generate
from revlens.experiment.arms.plan import Arms
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import answered_splits
from revlens.subject import benign_start
from revlens.training import finetune

#: A guarded update beside a plain one (docs/benchmarks.md: 1.7 for block, 2 for the dearest).
_GUARDED = 2.0
#: Passes over the drift probes that one run's causal stage is worth for each layer, and replies to all
#: prompts.
_CAUSAL_PASSES, _CAUSAL_REPLIES = 12, 24
#: Reference, aligned and fine-tuned model, between which the causal stage patches.
_MODELS_AT_ONCE = 3
#: Clamps under which a grid fine-tune replies at its end, to the harmful prompts alone.
_ROUTE_REPLIES = 6


@dataclass(frozen=True)
class Cost:
    """What a whole experiment takes if none of it is done yet.

    Attributes:
        n_fine_tunes: of the plan; 0 where the checkpoints are given.
        n_updates: of all of them.
        seconds: one process on this machine. Measured: an update, a batch of replies and a forward pass;
            counted: how many of each. Expect it to be right within a factor of two.
        n_bytes: of checkpoints in the cache and activations in the output folder.
        n_bytes_in_memory: most that one process holds of weights, gradients and optimizer state. What a batch
            takes comes on top.
    """

    n_fine_tunes: int
    n_updates: int
    seconds: float
    n_bytes: int
    n_bytes_in_memory: int

    def __str__(self) -> str:
        hours, minutes = divmod(max(1, round(self.seconds / 60)), 60)
        duration = f"{hours} h {minutes} min" if hours else f"{minutes} min"
        trained = (
            f"{self.n_fine_tunes} fine-tunes, {self.n_updates} updates"
            if self.n_updates
            else "Given checkpoints"
        )
        return (
            f"{trained}: about {duration} in one process and {_size(self.n_bytes)} of disk, if none of it is "
            f"done yet. A process holds up to {_size(self.n_bytes_in_memory)} of weights and optimizer "
            "state; a batch comes on top."
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def expected_cost(config: ExperimentConfig) -> Cost:
    """Measure an update, replies and a forward pass on the subject's model, and count them in the plan.

    Raises:
        HistoryError, ConfigError, DataError, ProbeError: if the model, the task or the probes cannot be read.
    """
    subject = config.subject
    material, seed = subject.material(), config.seeds[0]
    probes = material.probes()
    drift, behaviour = list(probes["drift"]), list(probes["behaviour"])
    test = material.benign_test()
    n_asked = sum(len(probes[split]) for split in answered_splits(probes))
    n_asked += 0 if test is None else len(test)
    fine_tunes, update, n_bytes, trained_bytes = config.fine_tunes(), 0.0, 0, 0
    if subject.benign is None:
        model = subject.start(seed).aligned.load()
    else:
        # Where an aligned model is yet to be trained, the reference stands in for it.
        phase: Literal["reference", "aligned"] = "reference" if subject.n_start_updates else "aligned"
        model, data = benign_start(subject, seed, 1, phase)
        trained_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        once = replace(subject.benign, steps=1, warmup_steps=0)
        update = _seconds(lambda: finetune(model, data, once, seed=seed))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    batch = behaviour[: subject.batch_size]
    reply = _seconds(
        lambda: generate(model, batch, max_new_tokens=config.reply_tokens, batch_size=subject.batch_size)
    ) / len(batch)
    passes = _seconds(lambda: read_prompts(model, drift, batch_size=subject.batch_size))
    judged = n_asked * reply

    seconds = 2 * len(config.seeds) * (judged + passes)  # reference and aligned
    seconds += len(config.seeds) * subject.n_start_updates * update
    for fine_tune in fine_tunes:
        seconds += fine_tune.steps * update * (1.0 if fine_tune.method == "baseline" else _GUARDED)
        seconds += len(fine_tune.marks) * judged
        seconds += _ROUTE_REPLIES * len(behaviour) * reply * fine_tune.route
    if isinstance(config.plan, Arms):
        n_captured = sum(len(arm.marks) + 2 for arm in fine_tunes)
        n_prompts = sum(len(probes[split]) for split in ("direction", "drift", "harmless"))
        seconds += n_captured * n_prompts / len(drift) * passes
        seconds += len(config.plan.causal_seeds(config)) * (
            _CAUSAL_PASSES * model.cfg.n_layers * passes + _CAUSAL_REPLIES * judged
        )
        n_bytes = trained_bytes * sum(len(arm.marks) for arm in fine_tunes)
        n_bytes += n_captured * n_prompts * model.cfg.n_layers * model.cfg.d_model * 4
    else:  # no checkpoint is kept, and records are small
        seconds += 2 * passes * sum(len(fine_tune.readings) for fine_tune in fine_tunes)
    if subject.n_start_updates:
        n_bytes += len(config.seeds) * weights
    trained = [] if subject.benign is None else fine_tunes
    # A fine-tune holds gradients and Adam's two moments beside the weights.
    in_memory = max(_MODELS_AT_ONCE * weights, weights + 3 * trained_bytes)
    return Cost(len(trained), sum(fine_tune.steps for fine_tune in trained), seconds, n_bytes, in_memory)


def _seconds(measured: Callable[[], object]) -> float:
    began = time.perf_counter()
    measured()
    return time.perf_counter() - began
