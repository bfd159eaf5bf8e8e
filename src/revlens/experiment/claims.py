"""The paper's claims, our estimates beside its numbers, and verdicts by one rule fixed here.

A claim says that a quantity lies in a range. It is *supported* if the quantity's 95 % interval over runs lies wholly inside
the range, *contradicted* if wholly outside, and *undecided* otherwise. Ranges are fixed before any result is seen; they are
part of the code, and the report prints them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from revlens.atomic import write_json
from revlens.experiment.results import Results
from revlens.statistics import Estimate, mean_over_runs
from revlens.trajectory import spearman_over_runs

Verdict = Literal["supported", "contradicted", "undecided"]

#: Two arms count as about equal if they differ by less than this share of what block does to the baseline.
NEGLIGIBLE_SHARE = 0.25
#: Task perplexity counts as about unchanged within this factor.
PERPLEXITY_FACTOR = 1.05


@dataclass(frozen=True)
class Claim:
    """A claim with our estimate.

    Attributes:
        key: short name.
        statement: what is claimed, in words.
        paper: the paper's number, as printed there; empty if the claim is ours.
        estimate: our value, with interval over runs.
        low: lower end of the range that the claim asserts (None: unbounded).
        high: its upper end.
    """

    key: str
    statement: str
    paper: str
    estimate: Estimate
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> Verdict:
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        if low < self.estimate.low and self.estimate.high < high:
            return "supported"
        if self.estimate.high <= low or self.estimate.low >= high:
            return "contradicted"
        return "undecided"

    @property
    def rule(self) -> str:
        """The asserted range in words."""
        if self.low is None:
            return f"below {self.high:g}"
        if self.high is None:
            return f"above {self.low:g}"
        return f"between {self.low:.3g} and {self.high:.3g}"


def assess(results: Results) -> list[Claim]:
    """All claims that the arms at hand allow, in the order of the report."""
    alignment = _by_run(results.over_layers(), "alignment")
    harm = _by_run(results["behaviour"], "harmfulness")
    last = int(results["training"]["step"].max())
    steps = sorted(results["alignment"]["step"].unique())
    early = [step for step in (1, 20) if step in steps and step != last]
    claims = [
        Claim(
            f"alignment-{step}",
            f"Benign drift points along v_rev at step {step} (cosine, mean over layers, cross-fitted)",
            {1: "0.429 ± 0.052", 20: "0.647 ± 0.021", 100: "0.648"}.get(step, ""),
            mean_over_runs(alignment["baseline", step], test_zero=True),
            low=0.0,
        )
        for step in (*early, last)
    ]
    for null, shares in _exceedance(results).items():
        claims.append(
            Claim(
                f"exceeds-{null}",
                f"Most run-steps of the baseline exceed the 99th percentile of the {null} null (share)",
                "24/24" if null != "relabelled" else "passes (v2)",
                mean_over_runs(shares),
                low=0.5,
            )
        )
    claims.append(
        Claim(
            "harm-rises",
            f"Benign fine-tuning raises harmfulness (step {last} minus step 0)",
            "to 19.0 ± 4.0 %",
            mean_over_runs(harm["baseline", last] - harm["baseline", 0], test_zero=True),
            low=0.0,
        )
    )
    claims += _guard_claims(results, alignment, harm, last)
    points = results.over_layers().merge(results["behaviour"], on=["seed", "arm", "step"])
    by_seed = [run for _, run in points.sort_values(["seed", "arm", "step"]).groupby("seed")]
    x, y = (np.stack([run[column].to_numpy(float) for run in by_seed]) for column in ("alignment", "harmfulness"))
    if np.ptp(y) > 0:
        statement = "Harmfulness goes with alignment across arms and steps (Spearman, runs resampled whole)"
        claims.append(Claim("association", statement, "0.958", spearman_over_runs(x, y), low=0.0))
    claims.append(
        Claim(
            "naive-bias",
            f"On the same prompts the cosine is biased upward (naive minus cross-fitted, step {steps[0]})",
            "",
            mean_over_runs(_naive_bias(results, steps[0]), test_zero=True),
            low=0.0,
        )
    )
    return claims


def save(claims: list[Claim], path: Path) -> None:
    """Write as JSON, with rule and verdict spelt out."""
    write_json(path, [asdict(claim) | {"rule": claim.rule, "verdict": claim.verdict} for claim in claims])


def _guard_claims(
    results: Results, alignment: dict[tuple[str, int], np.ndarray], harm: dict[tuple[str, int], np.ndarray], last: int
) -> list[Claim]:
    claims: list[Claim] = []
    papers = {("block", "alignment"): "0.648 → −0.211", ("block", "harmfulness"): "19.0 ± 4.0 % → 8.5 ± 1.5 %"}
    for arm, sense in (("block", "lowers"), ("push", "raises")):
        for name, values in (("alignment", alignment), ("harmfulness", harm)):
            if (arm, last) in values:
                difference = mean_over_runs(values[arm, last] - values["baseline", last], test_zero=True)
                statement = f"{arm.capitalize()} {sense} {name} at step {last} ({arm} minus baseline)"
                bound = {"high": 0.0} if sense == "lowers" else {"low": 0.0}
                claims.append(Claim(f"{arm}-{name}", statement, papers.get((arm, name), "raised"), difference, **bound))
    if {("random", last), ("block", last)} <= set(alignment):
        for name, values in (("alignment", alignment), ("harmfulness", harm)):
            margin = NEGLIGIBLE_SHARE * abs(float((values["block", last] - values["baseline", last]).mean()))
            difference = mean_over_runs(values["random", last] - values["baseline", last], test_zero=True)
            statement = f"Blocking random directions leaves {name} about as it is (random minus baseline, step {last})"
            claims.append(Claim(f"random-{name}", statement, "about equal", difference, low=-margin, high=margin))
    if ("block", last) in alignment:
        loss = _by_run(results["behaviour"], "task_loss")
        ratio = mean_over_runs(np.exp(loss["block", last] - loss["baseline", last]))
        statement = f"Block leaves task perplexity about unchanged (ratio to baseline, step {last})"
        claims.append(Claim("task-cost", statement, "about 1", ratio, low=1 / PERPLEXITY_FACTOR, high=PERPLEXITY_FACTOR))
    return claims


def _by_run(table: pd.DataFrame, column: str) -> dict[tuple[str, int], np.ndarray]:
    """One value per run, seeds in order, by arm and step: arrays of two arms pair up."""
    ordered = table.sort_values("seed")
    return {(str(arm), int(step)): group[column].to_numpy(float) for (arm, step), group in ordered.groupby(["arm", "step"])}


def _exceedance(results: Results) -> dict[str, np.ndarray]:
    """Share of the baseline's steps above p99, one value per run, by null."""
    table = results["nulls"]
    shares = table[table["arm"] == "baseline"].groupby(["null", "seed"])["exceeds"].mean()
    return {null: shares[null].to_numpy(float) for null in ("isotropic", "covariance", "relabelled")}


def _naive_bias(results: Results, step: int) -> np.ndarray:
    naive, cross_fitted = (_by_run(results.over_layers(estimate=estimate), "alignment") for estimate in ("naive", "cross-fitted"))
    return naive["baseline", step] - cross_fitted["baseline", step]
