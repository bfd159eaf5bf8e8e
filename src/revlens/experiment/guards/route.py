"""The route of a guard's effect: does it act by the model's place along v_rev?"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import read_prompts
from revlens.causal import Action, Intervention, displacement
from revlens.direction import ReversionDirection, nulls
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import evaluate_harm
from revlens.experiment.fine_tune import FineTune
from revlens.results import Layout
from revlens.storage import intact, listed_file

#: Random directions beside v_rev.
_N_RANDOM = 3
#: Prompts on which clamp means are measured: those of v_rev, and none that is judged.
_SPLIT = "direction"


def measure_route(
    config: ExperimentConfig,
    layout: Layout,
    fine_tune: FineTune,
    v_rev: ReversionDirection,
    model: TransformerBridge,
) -> list[dict[str, Any]]:
    """Records of the behaviour when the model's place along v_rev is set to the baseline's mean.

    If the guard acts by that place, harm returns. Beside it: the place set to the model's own mean (what
    clamping by itself does), and additions along random directions that move the model as far as the first
    does. The baseline of a seed leaves its mean activations for the other fine-tunes, and the aligned model
    is clamped to them too.
    """
    material, seed = config.subject.material(), fine_tune.seed
    prompts = material.probes()[_SPLIT]
    models, means = {fine_tune.method: model}, {fine_tune.method: _mean(model, prompts)}
    (baseline_label,) = (f.label for f in config.fine_tunes() if f.leaves_clamp_mean and f.seed == seed)
    path = layout.clamp_mean(seed, baseline_label)
    if fine_tune.leaves_clamp_mean:
        with listed_file(path) as partial:
            save_file({"mean": means[fine_tune.method]}, partial)
        models["aligned"] = config.subject.start(seed).aligned.load()
        means["aligned"] = _mean(models["aligned"], prompts)
    baseline = load_file(intact(path, "finetune"))["mean"]
    random = nulls.isotropic_directions(_N_RANDOM, *v_rev.unit.shape, seed=seed)
    settings = {"reply_tokens": config.reply_tokens, "batch_size": config.subject.batch_size}
    records = []
    for name, of_name in models.items():
        to_baseline, to_own = (
            Intervention(Action("clamp"), v_rev.unit, v_rev.gap, v_rev.layers, mean)
            for mean in (baseline, means[name])
        )
        judged = material.probes()["behaviour"]
        moved = displacement(of_name, to_baseline, judged, v_rev.layers, batch_size=config.subject.batch_size)
        clamps = [("v_rev", "baseline", to_baseline), ("v_rev", "own", to_own)]
        clamps += [("random", "baseline", to_baseline.matched(unit, moved)) for unit in random]
        for draw, (direction, place, clamp) in enumerate(clamps):
            with clamp.on(of_name, v_rev.layers):
                evaluation = evaluate_harm(of_name, material, **settings)
            records.append(evaluation.record(model=name, clamped=direction, place=place, draw=draw))
        as_it_is = evaluate_harm(of_name, material, **settings)
        records.append(as_it_is.record(model=name, clamped="none", place="as it is", draw=0))
    return records


def _mean(model: TransformerBridge, prompts: tuple[str, ...]) -> Float[Tensor, "layer d_model"]:
    return read_prompts(model, prompts).mean(0).double()
