"""The stage of the causal studies of one run: does v_rev carry refusal, more than other directions and than
the rest of the stream?
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from revlens.activations import Sites, read_prompts
from revlens.causal import (
    Action,
    Intervention,
    RefusalLogitDifference,
    VocabularyReadout,
    displacement,
    intervene,
    patch_between,
    patch_heads_between,
    site_label,
    vocabulary_readout,
)
from revlens.direction import ReversionDirection, nulls
from revlens.experiment.arms.history import arm_history
from revlens.experiment.arms.plan import Arms
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import Evaluation, evaluate, evaluate_harm, measure_rows, reply_rows
from revlens.experiment.fine_tune import FineTune
from revlens.experiment.guarded import own_v_rev
from revlens.experiment.units import Tick
from revlens.history import TrainingHistory
from revlens.results import Layout
from revlens.storage import atomic_directory, seal
from revlens.subject import Material

#: What `measure_causality` makes.
TABLES = ("patching", "interventions", "intervened", "intervened_replies", "readout", "readout_tokens")

#: Which checkpoint's activations are put into which: does refusal come back, does it go?
PAIRS = {
    "restore": ("aligned", "tuned"),
    "remove": ("tuned", "aligned"),
    "reference": ("reference", "aligned"),
}
#: Heat maps show this many of the last prompt tokens.
HEAT_MAP_POSITIONS = 8
#: What is done to each model; doses are shares of the way from the aligned model to the reference.
ACTIONS_ON = {
    "tuned": (
        Action("ablate"),
        Action("clamp"),
        *(Action("add", dose) for dose in (-0.25, -0.5, -1.0, -1.5)),
    ),
    "aligned": (Action("ablate"), *(Action("add", dose) for dose in (0.25, 0.5, 1.0, 1.5))),
}
#: The action on each model for which a layer is chosen, and whose behaviour is compared with control
#: directions.
MAIN_ACTION = {"tuned": Action("clamp"), "aligned": Action("add", 1.0)}
#: Layers are chosen on one split and everything is reported on others.
CHOICE_SPLIT, REPORT_SPLIT = "direction", "drift"
#: What tells one row of the table `intervened` from another, beside its model.
_ABOUT = ("action", "dose", "role", "site", "direction", "draw")
_N_TOKENS_SHOWN = 10


def work(config: ExperimentConfig, layout: Layout, baseline: FineTune, tick: Tick) -> None:
    """Patch, intervene on and read out the baseline's models: reference, aligned and fine-tuned."""
    folder = layout.causal(baseline.seed)
    if all((folder / f"{name}.parquet").is_file() for name in TABLES):
        return
    v_rev = own_v_rev(layout, baseline.seed)
    tables = measure_causality(config, arm_history(config, baseline), v_rev, baseline.seed, tick=tick)
    with atomic_directory(folder) as partial:
        for name, table in tables.items():
            table.to_parquet(partial / f"{name}.parquet", index=False)
        seal(partial)


def n_ticks(config: ExperimentConfig, baseline: FineTune) -> int:
    """One for each pair that is patched, two for each model under intervention, one for the readout."""
    return len(PAIRS) + 2 * len(ACTIONS_ON) + 1


def measure_causality(
    config: ExperimentConfig,
    history: TrainingHistory,
    v_rev: ReversionDirection,
    seed: int,
    *,
    tick: Tick = lambda: None,
) -> dict[str, pd.DataFrame]:
    """All causal `TABLES` of one run (see docs/results-schema.md)."""
    plan, material = config.plan, config.subject.material()
    assert isinstance(plan, Arms)
    models = {
        "reference": history.reference.load(),
        "aligned": history.aligned.load(),
        "tuned": history.steps[-1].load(),
    }
    probes = material.probes()
    openings = RefusalLogitDifference.from_texts(models["aligned"].tokenizer, *material.openings())
    aligned = read_prompts(models["aligned"], probes[CHOICE_SPLIT], Sites(layers=v_rev.layers))
    clamp_mean = aligned.mean(0).double()
    controls = {
        "random": nulls.isotropic_directions(plan.n_controls, *v_rev.unit.shape, seed=seed),
        "covariance": nulls.covariance_directions(aligned, plan.n_controls, seed=seed),
    }

    patching = []
    for pair, (donor, recipient) in PAIRS.items():
        patching.append(
            _patching(models[donor], models[recipient], probes[REPORT_SPLIT], openings, v_rev).assign(
                pair=pair
            )
        )
        tick()

    interventions, intervened, replies = [], [], []
    for name, actions in ACTIONS_ON.items():
        measure = partial(intervene, models[name], v_rev, metric=openings, clamp_mean=clamp_mean)
        choice = (
            measure(actions=actions, prompts=probes[CHOICE_SPLIT]).to_dataframe().assign(split=CHOICE_SPLIT)
        )
        report = measure(actions=actions, prompts=probes[REPORT_SPLIT], controls=controls)
        table = report.to_dataframe().assign(split=REPORT_SPLIT)
        interventions.append(
            pd.concat([choice, table]).assign(model=name, baseline=float(report.baseline.mean()))
        )
        tick()
        chosen = _strongest_layer(choice, MAIN_ACTION[name], models[name].cfg.n_layers - 1)
        records = _intervened(config, models[name], material, v_rev, name, chosen, clamp_mean, controls)
        intervened.append(measure_rows(records, *_ABOUT).assign(model=name))
        replies.append(reply_rows(records, probes, *_ABOUT).assign(model=name))
        tick()

    readout = vocabulary_readout(models["aligned"], v_rev, openings, seed=seed)
    tick()
    return {
        "patching": pd.concat(patching, ignore_index=True),
        "interventions": pd.concat(interventions, ignore_index=True),
        "intervened": pd.concat(intervened, ignore_index=True).astype({"dose": float}),
        "intervened_replies": pd.concat(replies, ignore_index=True).astype({"dose": float}),
        "readout": readout.to_dataframe(),
        "readout_tokens": _token_rows(readout, models["aligned"].tokenizer),
    }


def _patching(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    openings: RefusalLogitDifference,
    v_rev: ReversionDirection,
) -> pd.DataFrame:
    patched = partial(patch_between, donor, recipient, prompts, openings)
    sweeps = [
        patched(last=HEAT_MAP_POSITIONS),
        *(patched(part=part, v_rev=v_rev) for part in ("along", "orthogonal")),
        *(patched(sites=Sites(component)) for component in ("attn_out", "resid_mid", "mlp_out")),
        patch_heads_between(donor, recipient, prompts, openings),
    ]
    return pd.concat(
        [sweep.to_dataframe().assign(component=sweep.component, part=sweep.part) for sweep in sweeps]
    )


def rows_of(table: pd.DataFrame, action: Action) -> pd.DataFrame:
    """The rows of ``interventions`` or ``intervened`` in which an action was taken."""
    same_dose = table["dose"].isna() if action.dose is None else table["dose"] == action.dose
    return table[(table["action"] == action.kind) & same_dose]


def _strongest_layer(choice: pd.DataFrame, action: Action, last: int) -> int:
    """The single layer at which an action on v_rev moves the metric most, on the split for choosing.

    The model's last layer is left out: its stream is read at once, so that anything along the openings'
    unembeddings moves the metric there, whatever the model makes of it.
    """
    rows = rows_of(choice, action)
    alone = rows[~rows["site"].str.contains("-")]
    earlier = alone[alone["site"] != str(last)]
    alone = alone if earlier.empty else earlier
    return int(alone.loc[alone["effect"].abs().idxmax(), "site"])


def _intervened(
    config: ExperimentConfig,
    model: TransformerBridge,
    material: Material,
    v_rev: ReversionDirection,
    name: str,
    chosen: int,
    clamp_mean: Float[Tensor, "layer d_model"],
    controls: dict[str, Float[Tensor, "draw layer d_model"]],
) -> list[dict[str, Any]]:
    """Behaviour under actions on v_rev at the chosen layer and at all, and under matched controls."""
    sites = {"chosen": (chosen,), "all": v_rev.layers}
    settings: dict[str, Any] = {"reply_tokens": config.reply_tokens, "batch_size": config.subject.batch_size}
    records = []

    def keep(
        evaluation: Evaluation,
        role: str,
        direction: str,
        action: Action | None = None,
        site: str | None = None,
        draw: int = 0,
    ) -> None:
        kind, dose = (None, None) if action is None else (action.kind, action.dose)
        records.append(
            evaluation.record(action=kind, dose=dose, role=role, site=site, direction=direction, draw=draw)
        )

    keep(evaluate(model, material, **settings), "none", "none")
    for action in ACTIONS_ON[name]:
        intervention = Intervention(action, v_rev.unit, v_rev.gap, v_rev.layers, clamp_mean)
        for role, site in sites.items():
            around = partial(_around, intervention, model, site)
            evaluation = evaluate(model, material, around=around, **settings)
            keep(evaluation, role, "v_rev", action, site_label(site))
    along = Intervention(MAIN_ACTION[name], v_rev.unit, v_rev.gap, v_rev.layers, clamp_mean)
    judged, batch_size = material.probes()["behaviour"], config.subject.batch_size
    moved = displacement(model, along, judged, sites["chosen"], batch_size=batch_size)
    tried = [("v_rev", 0, along)] + [
        (kind, draw, along.matched(unit, moved))
        for kind, draws in controls.items()
        for draw, unit in enumerate(draws)
    ]
    for kind, draw, intervention in tried:
        with intervention.on(model, sites["chosen"]):
            evaluation = evaluate_harm(model, material, **settings)
        keep(evaluation, "control", kind, along.action, str(chosen), draw)
    return records


def _around(
    intervention: Intervention, model: TransformerBridge, site: Sequence[int], prompt_length: Tensor | None
) -> AbstractContextManager[None]:
    return intervention.on(model, site, prompt_length=prompt_length)


def _token_rows(readout: VocabularyReadout, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    ends = {"top": readout.top(_N_TOKENS_SHOWN), "bottom": readout.top(_N_TOKENS_SHOWN, bottom=True)}
    return pd.DataFrame(
        [
            {
                "layer": layer,
                "end": end,
                "rank": rank,
                "token": tokenizer.decode([token]),
                "logit": float(readout.logits[i, token]),
            }
            for i, layer in enumerate(readout.layers)
            for end, ids in ends.items()
            for rank, token in enumerate(ids[i].tolist(), start=1)
        ]
    )
