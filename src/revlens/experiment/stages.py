"""The stages of an experiment, each for one run. A stage reads what earlier ones left on disk, and writes whole files only.

Every function here is picklable and takes plain values, so that runs can go to worker processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from revlens.activations import capture, read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ResultsError
from revlens.experiment import causality
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import evaluate
from revlens.history import TrainingHistory
from revlens.results import Layout
from revlens.storage import atomic_directory, intact, listed_file, seal, write_listed_json
from revlens.subject import BenignRun
from revlens.training import make_guard

Tick = Callable[[str], None]

#: Stages in order. `history` and `causal` are per seed, the others per seed and arm.
STAGES = ("history", "finetune", "capture", "behaviour", "causal")
PER_SEED = ("history", "causal")


def n_ticks(stage: str, config: ExperimentConfig) -> int:
    """How often one run of a stage reports progress."""
    return {
        "history": max(1, config.subject.n_start_updates),
        "finetune": config.steps[-1],
        "capture": len(config.steps) + 2,
        "behaviour": len(config.steps),
        "causal": causality.N_STUDIES,
    }[stage]


def history(config: ExperimentConfig, layout: Layout, seed: int, tick: Tick) -> None:
    """Train (or find in the cache) the reference and the aligned model, judge both, and locate v_rev between them."""
    subject = config.subject
    start = subject.start(seed, on_step=lambda phase, step: tick("history"))
    if layout.v_rev(seed).is_file() and layout.start_behaviour(seed).is_file():
        return
    material = subject.material()
    records, activations = [], []
    for checkpoint in start:
        model = checkpoint.load()
        records.append(
            {"phase": checkpoint.phase}
            | evaluate(model, material, config.reply_tokens, batch_size=subject.batch_size)
        )
        activations.append(
            read_prompts(model, material.probes()["direction"], batch_size=min(64, subject.batch_size))
        )
    write_listed_json(layout.start_behaviour(seed), records)
    with listed_file(layout.v_rev(seed)) as partial:
        ReversionDirection.fit(*activations, split="direction").save(partial)


def benign_run(config: ExperimentConfig, seed: int, arm: str) -> BenignRun:
    """The fine-tune of one arm; every guarded arm is labelled with its strength."""
    label = arm if arm == "baseline" else f"{arm}-{config.strength:g}"
    return BenignRun(config.subject, seed, config.steps, label)


def finetune_arm(config: ExperimentConfig, layout: Layout, seed: int, arm: str, tick: Tick) -> None:
    """Fine-tune one arm from the aligned model, unless its checkpoints are given or cached."""
    if config.subject.benign is None:
        return
    v_rev = ReversionDirection.load(intact(layout.v_rev(seed), "history"))
    probes = config.subject.material().probes()
    run = benign_run(config, seed, arm)
    run.train(
        lambda aligned: make_guard(arm, v_rev, aligned, probes["guard"], strength=config.strength, seed=seed),
        on_step=lambda step: tick("finetune"),
    )
    write_listed_json(layout.losses(seed, arm), run.losses())


def arm_history(config: ExperimentConfig, seed: int, arm: str) -> TrainingHistory:
    """The training history of one arm.

    Raises:
        ResultsError: if it has not been fine-tuned yet.
    """
    given = config.subject.observed(seed)
    if given is not None:
        return given
    run = benign_run(config, seed, arm)
    if not run.is_done:
        raise ResultsError(f"Arm {arm!r} of seed {seed} has no checkpoints; run `revlens finetune` first.")
    return run.history()


def capture_arm(config: ExperimentConfig, layout: Layout, seed: int, arm: str, tick: Tick) -> None:
    """Capture every layer's residual stream at the last prompt token, at every checkpoint of one arm."""
    capture(
        arm_history(config, seed, arm),
        config.subject.material().probes(),
        layout.activations(seed, arm),
        splits=("direction", "drift", "harmless"),
        batch_size=min(64, config.subject.batch_size),
        on_checkpoint=lambda name: tick("capture"),
    )


def behaviour_arm(config: ExperimentConfig, layout: Layout, seed: int, arm: str, tick: Tick) -> None:
    """Generate and judge at every captured step of one arm; replies are kept beside the rates."""
    path = layout.behaviour(seed, arm)
    if path.is_file():
        return
    material, records = config.subject.material(), []
    for checkpoint in arm_history(config, seed, arm).steps:
        measures = evaluate(
            checkpoint.load(), material, config.reply_tokens, batch_size=config.subject.batch_size
        )
        records.append({"step": checkpoint.step} | measures)
        tick("behaviour")
    write_listed_json(path, records)


def causal(config: ExperimentConfig, layout: Layout, seed: int, tick: Tick) -> None:
    """Patch, intervene on and read out the baseline's models: reference, aligned, and after the last update."""
    folder = layout.causal(seed)
    if all((folder / f"{name}.parquet").is_file() for name in causality.TABLES):
        return
    v_rev = ReversionDirection.load(intact(layout.v_rev(seed), "history"))
    tables = causality.study(
        config, arm_history(config, seed, "baseline"), v_rev, seed, on_study=lambda: tick("causal")
    )
    with atomic_directory(folder) as partial:
        for name, table in tables.items():
            table.to_parquet(partial / f"{name}.parquet", index=False)
        seal(partial)


def run_start(stages: tuple[str, ...], config: ExperimentConfig, out: Path, seed: int, tick: Tick) -> None:
    """The stages of one seed that come before its arms."""
    if "history" in stages:
        history(config, Layout(out), seed, tick)


def run_arm(
    stages: tuple[str, ...], config: ExperimentConfig, out: Path, seed: int, arm: str, tick: Tick
) -> None:
    """The chosen stages of one arm, in order."""
    for name, stage in (("finetune", finetune_arm), ("capture", capture_arm), ("behaviour", behaviour_arm)):
        if name in stages:
            stage(config, Layout(out), seed, arm, tick)
    if "causal" in stages and arm == "baseline":
        causal(config, Layout(out), seed, tick)
