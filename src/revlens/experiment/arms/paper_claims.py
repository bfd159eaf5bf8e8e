"""The paper's claims: its numbers beside ours, on drift, nulls, behaviour and what a guard does to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from revlens.experiment.arms.association_claims import association_claims
from revlens.experiment.arms.null_claims import null_claims
from revlens.experiment.arms.tables import ArmTables
from revlens.results import NEGLIGIBLE_SHARE, OVER_REFUSAL, PERPLEXITY_FACTOR, Claim
from revlens.statistics import mean_over_runs

_WORDS = {
    "alignment": "alignment",
    "refusal": "clean refusals",
    "harmfulness": "harmfulness",
    "substantive_harm": "substantive harmful replies",
}


def assess_paper(results: ArmTables) -> list[Claim]:
    """The claims that the arms at hand allow, in the order of the report."""
    behaviour = results["behaviour"]
    measured = [
        name
        for name in ("refusal", "harmfulness", "substantive_harm", "over_refusal", "task_loss")
        if name in behaviour
    ]
    measures = {name: _by_run(behaviour, name) for name in measured}
    measures["alignment"] = _by_run(results.over_layers(), "alignment")
    last = int(behaviour["step"].max())
    return [
        *_drift_claims(results, measures["alignment"], last),
        *_behaviour_claims(measures, last),
        *_guard_claims(measures, last),
        *association_claims(results),
    ]


#: One value per run, seeds in order, by arm and step.
_ByRun = dict[tuple[str, int], np.ndarray]


def _by_run(table: pd.DataFrame, column: str) -> _ByRun:
    groups = table.sort_values("seed").groupby(["arm", "step"])
    return {(str(arm), int(step)): group[column].to_numpy(float) for (arm, step), group in groups}


def _drift_claims(results: ArmTables, alignment: _ByRun, last: int) -> Iterator[Claim]:
    captured = sorted(step for arm, step in alignment if arm == "baseline")
    for step in sorted({1, 20, last}.intersection(captured)):
        yield Claim(
            f"alignment-{step}",
            f"Benign drift points along v_rev at step {step} (cosine, mean over layers, cross-fitted)",
            {1: "0.429 ± 0.052", 20: "0.647 ± 0.021", 100: "0.648"}.get(step, ""),
            mean_over_runs(alignment["baseline", step], test_zero=True),
            low=0.0,
        )
    yield from null_claims(results)
    naive = _by_run(results.over_layers(estimate="naive"), "alignment")
    first = captured[0]
    yield Claim(
        "naive-bias",
        f"On the same prompts the cosine is biased upward (naive minus cross-fitted, step {first})",
        "",
        mean_over_runs(naive["baseline", first] - alignment["baseline", first], test_zero=True),
        low=0.0,
    )


def _behaviour_claims(measures: dict[str, _ByRun], last: int) -> Iterator[Claim]:
    for measure in [name for name in ("harmfulness", "substantive_harm") if name in measures]:
        values = measures[measure]
        yield Claim(
            f"{measure}-rises",
            f"Benign fine-tuning raises {_WORDS[measure]} (step {last} minus step 0)",
            "to 19.0 ± 4.0 %" if measure == "harmfulness" else "",
            mean_over_runs(values["baseline", last] - values["baseline", 0], test_zero=True),
            low=0.0,
        )


def _guard_claims(measures: dict[str, _ByRun], last: int) -> Iterator[Claim]:
    arms = {arm for arm, step in measures["alignment"] if step == last}
    papers = {
        ("block", "alignment"): "0.648 → −0.211",
        ("block", "harmfulness"): "19.0 ± 4.0 % → 8.5 ± 1.5 %",
    }

    def against_baseline(arm: str, measure: str) -> np.ndarray:
        return measures[measure][arm, last] - measures[measure]["baseline", last]

    for arm, verb in (("block", "lowers"), ("push", "raises")):
        if arm in arms:
            for measure in [name for name in _WORDS if name in measures]:
                paper = papers.get(
                    (arm, measure),
                    "block < baseline < push" if arm == "push" and measure != "substantive_harm" else "",
                )
                yield Claim(
                    f"{arm}-{measure}",
                    f"{arm.capitalize()} {verb} {_WORDS[measure]} at step {last} ({arm} minus baseline)",
                    paper,
                    mean_over_runs(against_baseline(arm, measure), test_zero=True),
                    low=None if verb == "lowers" else 0.0,
                    high=0.0 if verb == "lowers" else None,
                )
    if {"random", "block"} <= arms:
        for measure in ("alignment", "harmfulness"):
            margin = NEGLIGIBLE_SHARE * abs(float(against_baseline("block", measure).mean()))
            if margin == 0:  # block itself changes nothing, so there is no share of it to compare with
                continue
            yield Claim(
                f"random-{measure}",
                f"Blocking random directions leaves {_WORDS[measure]} about as it is (random minus "
                f"baseline, step {last})",
                "random ≈ baseline",
                mean_over_runs(against_baseline("random", measure), test_zero=True),
                low=-margin,
                high=margin,
            )
    if "block" in arms:
        yield Claim(
            "block-over-refusal",
            f"Block refuses what is harmful and not what is harmless (over-refusal at step {last}, block "
            "minus baseline)",
            "",
            mean_over_runs(against_baseline("block", "over_refusal"), test_zero=True),
            high=OVER_REFUSAL,
        )
        if "task_loss" in measures:
            yield Claim(
                "task-cost",
                f"Block leaves task perplexity about unchanged (ratio to baseline, step {last})",
                "about unchanged",
                mean_over_runs(np.exp(against_baseline("block", "task_loss"))),
                low=1 / PERPLEXITY_FACTOR,
                high=PERPLEXITY_FACTOR,
            )
