"""Causal claims on hand-made tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from revlens.experiment import (
    MAIN_ACTION,
    REPORT_SPLIT,
    ArmTables,
    at_chosen,
    chosen_layers,
)
from revlens.experiment.arms.causal_claims import assess_causality
from revlens.results import Claim

SEEDS = range(5)
CHOSEN = {"tuned": (1, 1, 1, 0, 1), "aligned": (0, 0, 1, 0, 0)}
ALONG = {
    ("restore", 0): 0.25,
    ("restore", 1): 0.75,
    ("reference", 0): 0.875,
    ("reference", 1): 0.625,
    ("remove", 0): 0.0,
    ("remove", 1): 0.0,
}


def made_results() -> ArmTables:
    """v_rev moves the logit difference by 4 nats, controls by at most 2.

    Clamping removes half of the harm, adding brings all of it.
    """
    patching, interventions, outcomes = [], [], []
    for seed in SEEDS:
        for (pair, layer), along in ALONG.items():
            for part, recovered in (("full", 1.0), ("along", along), ("orthogonal", 0.125)):
                for position in (-2, -1):
                    row = {
                        "seed": seed,
                        "pair": pair,
                        "layer": layer,
                        "part": part,
                        "component": "resid_post",
                        "position": position,
                    }
                    patching.append(row | {"recovered": recovered if position == -1 else 9.0})
        for model, action in MAIN_ACTION.items():
            common = {
                "seed": seed,
                "model": model,
                "action": action.kind,
                "dose": np.nan if action.dose is None else action.dose,
            }
            sign, chosen = (-1, CHOSEN[model][seed]) if model == "tuned" else (1, CHOSEN[model][seed])
            for layer in (0, 1):
                for direction, effects in (
                    ("v_rev", [4.0]),
                    ("random", [-1.0, 0.5]),
                    ("covariance", [2.0, -2.0]),
                ):
                    for draw, effect in enumerate(effects):
                        size = effect if layer == chosen else 100.0 * (direction != "v_rev")
                        row = {
                            "split": REPORT_SPLIT,
                            "direction": direction,
                            "draw": draw,
                            "site": str(layer),
                            "effect": sign * size,
                        }
                        interventions.append(common | row)
            before = {
                "harmfulness": 0.75 if model == "tuned" else 0.0,
                "over_refusal": 0.0,
                "task_loss": 1.0,
            }
            after = {
                "harmfulness": 0.25 if model == "tuned" else 1.0,
                "over_refusal": 0.5,
                "task_loss": 1.0 + np.log(1.25),
            }
            outcomes.append({"seed": seed, "model": model, "role": "none", "site": None} | before)
            outcomes.append(common | {"role": "chosen", "site": str(chosen)} | after)
            outcomes.append(common | {"role": "all", "site": "0-1"} | before)
            outcomes.append(common | {"role": "control", "site": str(chosen), "harmfulness": 0.5})
    readout = [
        {"seed": seed, "layer": layer, "score": 3.0 if layer else -9.0, "null_mean": 1.0}
        for seed in SEEDS
        for layer in (0, 1)
    ]
    tables = {"patching": patching, "interventions": interventions, "outcomes": outcomes, "readout": readout}
    return ArmTables({name: pd.DataFrame(rows) for name, rows in tables.items()})


@pytest.fixture(scope="module")
def claims() -> dict[str, Claim]:
    return {claim.key: claim for claim in assess_causality(made_results())}


def test_each_seed_is_read_at_its_own_layer() -> None:
    results = made_results()
    assert chosen_layers(results, "tuned").tolist() == list(CHOSEN["tuned"])
    assert at_chosen(results, "restore", "along").tolist() == [0.75, 0.75, 0.75, 0.25, 0.75]
    assert at_chosen(results, "reference", "along").tolist() == [0.875, 0.875, 0.625, 0.875, 0.875]


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("patch-restore-along", 0.65, "undecided"),
        ("patch-restore-rest", 0.525, "supported"),
        ("patch-reference-along", 0.825, "supported"),
        ("clamp-harmfulness", -0.5, "supported"),
        ("clamp-over-refusal", 0.5, "contradicted"),
        ("clamp-task-cost", 1.25, "contradicted"),
        ("add-harmfulness", 1.0, "supported"),
        ("readout", 2.0, "supported"),
    ],
)
def test_values_and_verdicts(claims: dict[str, Claim], key: str, value: float, verdict: str) -> None:
    assert claims[key].estimate.value == pytest.approx(value)
    assert claims[key].verdict == verdict


def test_controls_are_beaten_by_what_exceeds_their_quantile_in_size(claims: dict[str, Claim]) -> None:
    """Sizes 1 and 0.5 have their 95 % quantile at 0.975; sizes 2 and 2 at 2."""
    for action in ("clamp", "add"):
        assert claims[f"{action}-beats-random"].estimate.value == pytest.approx(4.0 - 0.975)
        assert claims[f"{action}-beats-covariance"].estimate.value == pytest.approx(2.0)


def test_every_claim_is_over_every_seed(claims: dict[str, Claim]) -> None:
    assert {claim.estimate.n for claim in claims.values()} == {len(SEEDS)}
    assert all(claim.paper == "" for claim in claims.values())
