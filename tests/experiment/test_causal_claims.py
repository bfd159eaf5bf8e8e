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
    gap_over_runs,
    share_of,
)
from revlens.experiment.arms.causal_claims import assess_causality
from revlens.experiment.arms.causality import _strongest_layer
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
                    share = recovered if position == -1 else 9.0
                    gap = 2.0 + seed  # runs with a wider gap weigh more
                    patching.append(
                        row | {"recovered": share, "gap": gap, "effect": share * gap, "r2": share - 0.5}
                    )
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
    tables = {
        "patching": patching,
        "interventions": interventions,
        "intervened": outcomes,
        "readout": readout,
    }
    return ArmTables({name: pd.DataFrame(rows) for name, rows in tables.items()})


@pytest.fixture(scope="module")
def claims() -> dict[str, Claim]:
    return {claim.key: claim for claim in assess_causality(made_results())}


def test_each_seed_is_read_at_its_own_layer() -> None:
    results = made_results()
    assert chosen_layers(results, "tuned").tolist() == list(CHOSEN["tuned"])
    for pair, expected in (
        ("restore", [0.75, 0.75, 0.75, 0.25, 0.75]),
        ("reference", [0.875, 0.875, 0.625, 0.875, 0.875]),
    ):
        rows = at_chosen(results, pair, "along")
        assert rows["seed"].tolist() == list(SEEDS)
        assert rows["recovered"].tolist() == expected


def test_shares_are_of_the_mean_gap() -> None:
    rows = at_chosen(made_results(), "restore", "along")
    assert share_of(rows).value == pytest.approx((0.75 * (2 + 3 + 4 + 6) + 0.25 * 5) / 20)


def with_gaps(gaps: list[float]) -> ArmTables:
    results = made_results()
    gap = results["patching"]["seed"].map(dict(enumerate(gaps)))
    return ArmTables(results.tables | {"patching": results["patching"].assign(gap=gap)})


def test_where_the_gap_may_be_zero_no_share_is_claimed() -> None:
    """One run without a gap does no harm; gaps of both signs do."""
    keys = {claim.key for claim in assess_causality(with_gaps([2.0, 3.0, 0.0, 4.0, 2.5]))}
    assert {"patch-restore-along", "patch-restore-rest"} <= keys
    unclear = with_gaps([2.0, -3.0, 0.5, 1.0, -1.0])
    assert gap_over_runs(unclear, "restore").holds_zero
    left = {claim.key for claim in assess_causality(unclear)}
    assert keys - left == {"patch-restore-along", "patch-restore-rest"}


def test_the_reference_in_the_aligned_model_is_no_evidence(claims: dict[str, Claim]) -> None:
    assert not any("reference" in key for key in claims)


def test_r2_over_prompts_stands_beside_the_share(claims: dict[str, Claim]) -> None:
    assert "R^2 0.15 [-0.15, 0.25]" in claims["patch-restore-along"].statement


@pytest.mark.parametrize(("effects", "chosen"), [([1.0, -3.0, 2.0, 9.0], 1), ([5.0, 1.0, 0.5, 0.0], 0)])
def test_the_last_layer_is_never_chosen(effects: list[float], chosen: int) -> None:
    action = MAIN_ACTION["tuned"]
    table = pd.DataFrame(
        {
            "site": ["0", "1", "2", "3", "0-3"],
            "effect": [*effects, 99.0],
            "action": action.kind,
            "dose": np.nan,
        }
    )
    assert _strongest_layer(table, action, 3) == chosen
    assert _strongest_layer(table[table["site"] == "3"], action, 3) == 3  # there is no other


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("patch-restore-along", 0.625, "undecided"),
        ("patch-restore-rest", 0.5, "supported"),
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
