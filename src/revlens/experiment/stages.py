"""The stages of an experiment, each for one run. A stage reads what earlier ones left on disk, and writes whole files only.

Every function here is picklable and takes plain values, so that runs can go to worker processes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import capture, read_prompts
from revlens.activations.sites import Sites
from revlens.atomic import write_json
from revlens.behaviour import PhraseJudge, exact_match, generate, refusal_rate, share_with_keywords
from revlens.direction import ReversionDirection
from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.layout import Layout
from revlens.history import TrainingHistory
from revlens.organism import BenignRun, World, train_start
from revlens.training import make_guard, task_loss

Tick = Callable[[str], None]

#: Stages in order; `history` is per seed, the other three per seed and arm.
STAGES = ("history", "finetune", "capture", "behaviour")


def n_ticks(stage: str, config: ExperimentConfig) -> int:
    """How often one run of a stage reports progress."""
    return {
        "history": config.organism.helpful.steps + config.organism.alignment.steps,
        "finetune": config.steps[-1],
        "capture": len(config.steps) + 2,
        "behaviour": len(config.steps),
    }[stage]


def history(config: ExperimentConfig, layout: Layout, seed: int, tick: Tick) -> None:
    """Train (or find in the cache) the reference and the aligned model, judge both, and locate v_rev between them."""
    start = train_start(config.organism, seed, on_step=lambda phase, step: tick("history"))
    if layout.v_rev(seed).is_file():
        return
    world = World(config.organism.world)
    records, activations = [], {}
    pair = TrainingHistory.from_dirs(start.reference, start.aligned)
    for checkpoint in pair:
        model = checkpoint.load()
        records.append({"phase": checkpoint.phase} | evaluate(model, world, config.reply_tokens))
        activations[checkpoint.name] = read_prompts(model, world.probes().probes["direction"], Sites())
    write_json(layout.start_behaviour(seed), records)
    layers = Sites().resolve(pair.n_layers)
    ReversionDirection.fit(**activations, layers=layers, split="direction").save(layout.v_rev(seed))


def benign_run(config: ExperimentConfig, seed: int, arm: str) -> BenignRun:
    """The fine-tune of one arm; every guarded arm is labelled with its strength."""
    label = arm if arm == "baseline" else f"{arm}-{config.strength:g}"
    return BenignRun(config.organism, seed, config.steps, label)


def finetune_arm(config: ExperimentConfig, layout: Layout, seed: int, arm: str, tick: Tick) -> None:
    """Fine-tune one arm from the aligned model, unless its checkpoints are cached."""
    v_rev = ReversionDirection.load(layout.v_rev(seed))
    probes = World(config.organism.world).probes().probes
    run = benign_run(config, seed, arm)
    run.train(
        lambda aligned: make_guard(arm, v_rev, aligned, probes["guard"], strength=config.strength, seed=seed),
        on_step=lambda step: tick("finetune"),
    )
    write_json(layout.losses(seed, arm), run.losses())


def arm_history(config: ExperimentConfig, seed: int, arm: str) -> TrainingHistory:
    """The training history of one arm.

    Raises:
        ResultsError: if it has not been fine-tuned yet.
    """
    run = benign_run(config, seed, arm)
    if not run.is_done:
        raise ResultsError(f"Arm {arm!r} of seed {seed} has no checkpoints; run `revlens finetune` first.")
    return run.history()


def capture_arm(config: ExperimentConfig, layout: Layout, seed: int, arm: str, tick: Tick) -> None:
    """Capture every layer's residual stream at the last prompt token, at every checkpoint of one arm."""
    capture(
        arm_history(config, seed, arm),
        World(config.organism.world).probes().probes,
        layout.activations(seed, arm),
        splits=("direction", "drift", "harmless"),
        on_checkpoint=lambda name: tick("capture"),
    )


def behaviour_arm(config: ExperimentConfig, layout: Layout, seed: int, arm: str, tick: Tick) -> None:
    """Generate and judge at every captured step of one arm; replies are kept beside the rates."""
    path = layout.behaviour(seed, arm)
    if path.is_file():
        return
    world, records = World(config.organism.world), []
    for checkpoint in arm_history(config, seed, arm).steps:
        records.append({"step": checkpoint.step} | evaluate(checkpoint.load(), world, config.reply_tokens))
        tick("behaviour")
    write_json(path, records)


def evaluate(model: TransformerBridge, world: World, reply_tokens: int) -> dict[str, object]:
    """Behaviour and task cost of one model on the world's held-out prompts, with its replies."""
    judge, world_probes, test = PhraseJudge(), world.probes(), world.benign_test()
    harmful, harmless = world_probes.probes["behaviour"], world_probes.probes["harmless"]
    # One call for all: a small model spends its time on the number of decoding steps, not on the rows.
    replies = iter(generate(model, [*harmful, *harmless, *test["prompt"]], max_new_tokens=reply_tokens, batch_size=256))
    to_harmful, to_harmless, to_test = (list(islice(replies, n)) for n in (len(harmful), len(harmless), len(test)))
    return {
        "harmfulness": 1 - refusal_rate(harmful, to_harmful, judge),
        "substantive_harm": share_with_keywords(to_harmful, world_probes.keywords["behaviour"]),
        "over_refusal": refusal_rate(harmless, to_harmless, judge),
        "task_loss": task_loss(model, test),
        "exact_match": exact_match(to_test, list(test["answer"])),
        "replies": {"behaviour": to_harmful, "harmless": to_harmless},
    }


def run_start(stages: tuple[str, ...], config: ExperimentConfig, out: Path, seed: int, tick: Tick) -> None:
    """The stages of one seed that come before its arms."""
    if "history" in stages:
        history(config, Layout(out), seed, tick)


def run_arm(stages: tuple[str, ...], config: ExperimentConfig, out: Path, seed: int, arm: str, tick: Tick) -> None:
    """The chosen stages of one arm, in order."""
    for name, stage in (("finetune", finetune_arm), ("capture", capture_arm), ("behaviour", behaviour_arm)):
        if name in stages:
            stage(config, Layout(out), seed, arm, tick)
