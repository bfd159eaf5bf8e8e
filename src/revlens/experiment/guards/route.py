"""The route of a guard's effect: does it act by the model's place along v_rev?"""

from __future__ import annotations

import functools
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import read_prompts
from revlens.causal import Action, Intervention
from revlens.direction import ReversionDirection, nulls
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import harmfulness_in_few_tokens
from revlens.experiment.fine_tune import FineTune
from revlens.results import Layout
from revlens.storage import intact, listed_file

#: Random directions beside v_rev, and the longest reply: the judge reads openings.
_N_RANDOM, _REPLY_TOKENS = 3, 12
#: Prompts on which clamp means are measured: those of v_rev, and none that is judged.
_SPLIT = "direction"


def measure_route(
    config: ExperimentConfig,
    layout: Layout,
    fine_tune: FineTune,
    v_rev: ReversionDirection,
    model: TransformerBridge,
) -> list[dict[str, Any]]:
    """Harmfulness when the model's place along v_rev is set to the baseline's mean.

    If the guard acts by that place, harm returns. Beside it: the place set to the model's own mean (what
    clamping by itself does), and places along random directions set to the baseline's. The baseline of a seed
    leaves its mean activations for the other fine-tunes, and the aligned model is clamped to them too.
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
    measured = functools.partial(
        harmfulness_in_few_tokens,
        material=material,
        few=_REPLY_TOKENS,
        reply_tokens=max(_REPLY_TOKENS, config.reply_tokens),
    )
    rows = []
    for name, of_name in models.items():
        settings = [("v_rev", v_rev.unit, "baseline", baseline), ("v_rev", v_rev.unit, "own", means[name])]
        settings += [("random", unit, "baseline", baseline) for unit in random]
        for direction, unit, place, mean in settings:
            clamp = Intervention(Action("clamp"), unit, v_rev.gap, v_rev.layers, mean)
            with clamp.on(of_name, v_rev.layers):
                harmfulness = measured(of_name)
            rows.append({"model": name, "direction": direction, "place": place, "harmfulness": harmfulness})
        harmfulness = measured(of_name)
        rows.append({"model": name, "direction": "none", "place": "as it is", "harmfulness": harmfulness})
    return rows


def _mean(model: TransformerBridge, prompts: tuple[str, ...]) -> Float[Tensor, "layer d_model"]:
    return read_prompts(model, prompts).mean(0).double()
