"""Claims about causality at inference, under the same verdict rule. They are ours: the paper prints no such
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from revlens.experiment.arms.causality import MAIN_ACTION, REPORT_SPLIT, rows_of
from revlens.experiment.arms.tables import ArmTables
from revlens.results import OVER_REFUSAL, PERPLEXITY_FACTOR, Claim
from revlens.statistics import mean_over_runs

#: Control directions count as beaten if v_rev's effect exceeds this quantile of theirs in every run's own
#: comparison.
CONTROL_LEVEL = 0.95
#: "Most" of an effect.
MOST = 0.5

_DOES = {
    "tuned": "clamping to the aligned mean (fine-tuned model)",
    "aligned": "adding the gap (aligned model)",
}


def assess_causality(results: ArmTables) -> list[Claim]:
    """The causal claims, in the order of the report."""
    return [
        *_patching_claims(results),
        *_behaviour_claims(results),
        *_control_claims(results),
        *_readout_claims(results),
    ]


def chosen_layers(results: ArmTables, model: str) -> pd.Series:
    """The layer of each seed at which interventions on a model are reported; chosen on a split of its own."""
    rows = results["intervened"]
    rows = rows[(rows["model"] == model) & (rows["role"] == "control")]
    return rows.groupby("seed")["site"].first().astype(int)


def effects_at_chosen(results: ArmTables, model: str) -> pd.DataFrame:
    """Rows of ``interventions`` on the split for reporting, at each seed's chosen layer."""
    rows = results["interventions"]
    rows = rows[(rows["model"] == model) & (rows["split"] == REPORT_SPLIT)]
    return rows[rows["site"] == rows["seed"].map(chosen_layers(results, model)).astype(str)]


def at_chosen(results: ArmTables, pair: str, part: str) -> np.ndarray:
    """Share recovered by patching resid_post at the last prompt token and chosen layer, seeds in order."""
    rows = results["patching"]
    rows = rows[
        (rows["pair"] == pair)
        & (rows["part"] == part)
        & (rows["component"] == "resid_post")
        & (rows["position"] == -1)
    ]
    layers = chosen_layers(results, "tuned" if pair == "restore" else "aligned")
    by_seed = rows.set_index(["seed", "layer"])["recovered"]
    return np.array([by_seed[seed, layer] for seed, layer in layers.sort_index().items()], dtype=float)


def _patching_claims(results: ArmTables) -> Iterator[Claim]:
    for pair, words in {"restore": "aligned into fine-tuned", "reference": "reference into aligned"}.items():
        along, rest = (at_chosen(results, pair, part) for part in ("along", "orthogonal"))
        yield Claim(
            f"patch-{pair}-along",
            f"Patching {words}, the component along v_rev alone carries most of the effect (share "
            "recovered, chosen layer)",
            "",
            mean_over_runs(along),
            low=MOST,
        )
        yield Claim(
            f"patch-{pair}-rest",
            f"Patching {words}, v_rev carries more than all the rest of the residual stream (along minus "
            "orthogonal)",
            "",
            mean_over_runs(along - rest, test_zero=True),
            low=0.0,
        )


def _behaviour_claims(results: ArmTables) -> Iterator[Claim]:
    for model, words in {"tuned": "lowers", "aligned": "raises"}.items():
        change = _change(results, model, "harmfulness")
        yield Claim(
            f"{MAIN_ACTION[model].kind}-harmfulness",
            f"{_DOES[model].capitalize()} along v_rev at the chosen layer {words} harmfulness (minus the "
            "model as it is)",
            "",
            mean_over_runs(change, test_zero=True),
            low=None if words == "lowers" else 0.0,
            high=0.0 if words == "lowers" else None,
        )
    yield Claim(
        "clamp-over-refusal",
        "Clamping refuses what is harmful and not what is harmless (over-refusal, minus the model as it is)",
        "",
        mean_over_runs(_change(results, "tuned", "over_refusal"), test_zero=True),
        high=OVER_REFUSAL,
    )
    if "task_loss" in results["intervened"]:
        yield Claim(
            "clamp-task-cost",
            "Clamping leaves task perplexity about unchanged (ratio to the fine-tuned model)",
            "",
            mean_over_runs(np.exp(_change(results, "tuned", "task_loss"))),
            low=1 / PERPLEXITY_FACTOR,
            high=PERPLEXITY_FACTOR,
        )


def _change(results: ArmTables, model: str, measure: str) -> np.ndarray:
    rows = results["intervened"]
    rows = rows[rows["model"] == model]
    done = rows_of(rows[rows["role"] == "chosen"], MAIN_ACTION[model]).set_index("seed")[measure]
    before = rows[rows["role"] == "none"].set_index("seed")[measure]
    return (done - before).sort_index().to_numpy(float)


def _control_claims(results: ArmTables) -> Iterator[Claim]:
    for model, action in MAIN_ACTION.items():
        rows = rows_of(effects_at_chosen(results, model), action)
        size = rows.assign(size=rows["effect"].abs()).groupby(["direction", "seed"])["size"]
        for kind in ("random", "covariance"):
            margin = size.first()["v_rev"] - size.quantile(CONTROL_LEVEL)[kind]
            yield Claim(
                f"{action.kind}-beats-{kind}",
                f"{_DOES[model].capitalize()} along v_rev moves the logit difference more than along {kind} "
                "directions "
                f"(minus their {CONTROL_LEVEL:.0%} quantile, nats)",
                "",
                mean_over_runs(margin.sort_index().to_numpy(float)),
                low=0.0,
            )


def _readout_claims(results: ArmTables) -> Iterator[Claim]:
    rows = results["readout"]
    last = rows[rows["layer"] == rows["layer"].max()].sort_values("seed")
    yield Claim(
        "readout",
        f"Through the unembedding, v_rev of layer {rows['layer'].max()} favours engaging openings over "
        "refusals (minus random ones, nats)",
        "",
        mean_over_runs((last["score"] - last["null_mean"]).to_numpy(float), test_zero=True),
        low=0.0,
    )
