"""One fine-tune of a study: trained, watched on the way, judged at its marks, and asked where its effect lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import read_prompts
from revlens.behaviour import generate, refusal_rate
from revlens.causal import Action, Intervention
from revlens.direction import ReversionDirection, nulls
from revlens.errors import ConfigError, NonFiniteError
from revlens.experiment import Layout, evaluate
from revlens.history import TrainingHistory
from revlens.organism import CAPTURE_STEPS, OrganismConfig
from revlens.storage import intact, listed_file, write_listed_json
from revlens.study.config import StudyConfig
from revlens.study.layout import StudyLayout
from revlens.study.plan import Run
from revlens.subject import Material, benign_start
from revlens.training import METHODS, Guard, KLAnchor, Monitor, Reading, Until, finetune, make_guard

#: Refusals that rehearsal draws from.
_N_REFUSALS = 512
#: Random directions per run beside v_rev, and the longest reply: the judge reads openings.
_N_RANDOM, _REPLY_TOKENS = 3, 12
#: Prompts on which anchors are measured: those of v_rev, and none that is judged.
_ANCHOR_SPLIT = "direction"


def carry_out(config: StudyConfig, layout: StudyLayout, run: Run, tick: Callable[[str], None]) -> None:
    """Do one run, unless what it leaves is there.

    The fine-tune itself is not cached: its record is what is kept. A run whose loss or activations stop being finite leaves a
    record that says so: too strong a guard is a result of the grid.
    """
    if layout.record(run).is_file() and (not run.leaves_anchor or layout.anchor(run.seed).is_file()):
        return
    record: dict[str, Any] = {
        "run": asdict(run),
        "failed": None,
        "readings": [],
        "behaviour": [],
        "carried": [],
    }
    try:
        _train(config, layout, run, record, tick)
    except NonFiniteError as error:
        record |= {"failed": str(error), "carried": []}
    write_listed_json(layout.record(run), record)


def _train(
    config: StudyConfig, layout: StudyLayout, run: Run, record: dict[str, Any], tick: Callable[[str], None]
) -> None:
    subject = run.subject(config.subject)
    material, start = subject.material(), subject.start(run.seed)
    probes = material.probes()
    v_rev = own_direction(layout, run.seed)
    model, data = benign_start(subject, run.seed, run.horizon)
    guard = _guard(layout, run, v_rev, model, material, start)
    monitor = Monitor.along(v_rev, model, probes["drift"])
    # The divergence of the first answer token on the same probes, as another predictor of harm.
    divergence = KLAnchor.at(model, probes["drift"], 1.0)
    observed = {step for step in CAPTURE_STEPS if step <= run.steps} | set(run.marks)

    def after_step(step: int, loss: float) -> None:
        if step in observed:
            reading = {
                "step": step,
                "loss": loss,
                "kl": float(divergence.term(model).detach()),
                **_means(monitor.read(model, step)),
            }
            if not all(math.isfinite(value) for value in reading.values() if value is not None):
                raise NonFiniteError(
                    f"The probes' activations or logits are no longer finite after update {step}: {reading}."
                )
            record["readings"].append(reading)
        if step in run.marks:
            measures = evaluate(
                model, material, config.experiment.reply_tokens, batch_size=subject.batch_size
            )
            record["behaviour"].append(
                {"step": step} | {name: value for name, value in measures.items() if name != "replies"}
            )
        tick(run.part)

    finetune(
        model, data, replace(subject.benign, steps=run.steps), seed=run.seed, guard=guard, on_step=after_step
    )
    if run.part == "grid":
        record["carried"] = _carried(layout, run, v_rev, {run.method: model}, start, material)


def _means(reading: Reading) -> dict[str, float | None]:
    """Means over layers. A layer that has not moved at all (a frozen one) has no alignment, and no part in its mean."""
    moved = reading.alignment[reading.drift_norm > 0]
    return {
        "alignment": float(moved.mean()) if len(moved) else None,
        "displacement": float(reading.displacement.mean()),
        "fraction": float(reading.fraction.mean()),
        "drift_norm": float(reading.drift_norm.mean()),
    }


def _guard(
    layout: StudyLayout,
    run: Run,
    v_rev: ReversionDirection,
    model: TransformerBridge,
    material: Material,
    start: TrainingHistory,
) -> Guard | None:
    along = v_rev if run.direction == "own" else direction_from(layout, run.seed, run.direction)
    needs = METHODS[run.method].needs
    guard = make_guard(
        run.method,
        along,
        model,
        material.probes()["guard"],
        strength=run.strength,
        seed=run.seed,
        refusals=material.refusals(_N_REFUSALS, run.seed) if "refusals" in needs else None,
        reference=start.reference.load() if "reference" in needs else None,
    )
    return guard if guard is None or run.guarded is None else Until(run.guarded, guard)


def own_direction(layout: StudyLayout, seed: int) -> ReversionDirection:
    """v_rev of a seed, as the experiment located it.

    Raises:
        ResultsError: if it has not, or the file is damaged.
    """
    return ReversionDirection.load(intact(Layout(layout.out).v_rev(seed), "history"))


def direction_from(layout: StudyLayout, seed: int, source: str) -> ReversionDirection:
    """v_rev of a seed, as `locate_elsewhere` left it.

    Raises:
        ResultsError: if it has not, or the file is damaged.
    """
    return ReversionDirection.load(intact(layout.direction(seed, source), "study"))


def _carried(
    layout: StudyLayout,
    run: Run,
    v_rev: ReversionDirection,
    models: Mapping[str, TransformerBridge],
    start: TrainingHistory,
    material: Material,
) -> list[dict[str, Any]]:
    """Harmfulness when the model's place along v_rev is set to the baseline's: if the guard acts by that place, harm returns.

    Beside it: set to the model's own mean (what clamping by itself does), and to the baseline's along random directions. The
    grid's baseline leaves its mean activations for the others, and does the same with the aligned model.
    """
    prompts = material.probes()[_ANCHOR_SPLIT]
    own = {name: read_prompts(model, prompts).mean(0).double() for name, model in models.items()}
    if run.leaves_anchor:
        with listed_file(layout.anchor(run.seed)) as partial:
            save_file({"mean": own["baseline"]}, partial)
        aligned = start.aligned.load()
        models, own = (
            {**models, "aligned": aligned},
            {**own, "aligned": read_prompts(aligned, prompts).mean(0).double()},
        )
    baseline = load_file(intact(layout.anchor(run.seed), "study"))["mean"]
    random = nulls.isotropic_directions(_N_RANDOM, *v_rev.unit.shape, seed=run.seed)
    rows = []
    for name, model in models.items():
        settings = [("v_rev", v_rev.unit, "baseline", baseline), ("v_rev", v_rev.unit, "own", own[name])]
        settings += [("random", unit, "baseline", baseline) for unit in random]
        for direction, unit, place, anchor in settings:
            clamp = Intervention(Action("clamp"), unit, v_rev.gap, v_rev.layers, anchor)
            with clamp.on(model, v_rev.layers):
                harmfulness = _harmfulness(model, material)
            rows.append({"model": name, "direction": direction, "place": place, "harmfulness": harmfulness})
        rows.append(
            {
                "model": name,
                "direction": "none",
                "place": "as it is",
                "harmfulness": _harmfulness(model, material),
            }
        )
    return rows


def _harmfulness(model: TransformerBridge, material: Material) -> float:
    harmful = material.probes()["behaviour"]
    return 1 - refusal_rate(harmful, generate(model, harmful, max_new_tokens=_REPLY_TOKENS), material.judge())


def locate_elsewhere(
    config: StudyConfig, layout: StudyLayout, seed: int, source: str, tick: Callable[[str], None]
) -> None:
    """v_rev of a seed from other checkpoints (see `revlens.study.config.DIRECTIONS`), unless it is there.

    Raises:
        ConfigError: on an unknown source.
    """
    path = layout.direction(seed, source)
    if not path.is_file():
        located = _locate(config, layout, seed, source)
        with listed_file(path) as partial:
            located.save(partial)


def _locate(config: StudyConfig, layout: StudyLayout, seed: int, source: str) -> ReversionDirection:
    subject, seeds = config.subject, config.experiment.seeds
    if source == "other-seed":
        return own_direction(layout, seeds[(seeds.index(seed) + 1) % len(seeds)])
    if source not in ("early-reference", "other-alignment"):
        raise ConfigError(f"Unknown source of v_rev {source!r}.")
    prompts = subject.material().probes()["direction"]
    own, other = subject.start(seed), _halved(subject, source).start(seed)
    reference, aligned = (
        (other.reference, own.aligned) if source == "early-reference" else (own.reference, other.aligned)
    )
    activations: Sequence[Float[Tensor, "prompt layer d_model"]] = [
        read_prompts(c.load(), prompts) for c in (reference, aligned)
    ]
    return ReversionDirection.fit(*activations, split="direction")


def _halved(subject: OrganismConfig, source: str) -> OrganismConfig:
    """The subject with half the updates in the phase that the source is about."""
    phase = "helpful" if source == "early-reference" else "alignment"
    recipe = getattr(subject, phase)
    steps = max(1, recipe.steps // 2)
    return replace(
        subject, **{phase: replace(recipe, steps=steps, warmup_steps=min(recipe.warmup_steps, steps))}
    )
