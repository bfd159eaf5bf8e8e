"""The analyses of screening divide rows and read their tables as the design says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import first_update
import screen_validation


@pytest.fixture
def rows() -> pd.DataFrame:
    """Scores of 12 benign rows and 3 planted ones in each of five seeds; planted ones score highest."""
    generator, tables = np.random.default_rng(0), []
    for seed in range(5):
        table = pd.DataFrame({name: generator.normal(size=15) for name in screen_validation._SCORES})
        table["adamw"] += np.where(np.arange(15) >= 12, 100, 0)
        tables.append(table.assign(row=range(15), seed=seed, planted=np.arange(15) >= 12))
    return pd.concat(tables)


@pytest.fixture
def outcomes() -> pd.DataFrame:
    """By adamw thirds are in order, by sgd in the opposite one, by the rival all alike."""
    effect = {"adamw": 0.2, "sgd": -0.2, "projection_difference": 0.0}
    sets = [("any", "random", 0.0)] + [
        (score, third, sign * by)
        for score, by in effect.items()
        for third, sign in (("bottom", -1), ("top", 1))
    ]
    return pd.DataFrame(
        {
            "seed": seed, "score": score, "third": third, "step": step,
            "fraction": 0.3 + shift + seed / 100, "refusals": 0.5 - shift,
        }
        for seed in range(5) for score, third, shift in sets for step in (20, 50)
    )  # fmt: skip


def test_thirds_are_equal_and_ranked(rows: pd.DataFrame) -> None:
    own = rows[(rows["seed"] == 1) & ~rows["planted"]]
    sets = screen_validation.thirds(own, 1)
    assert {len(chosen) for chosen in sets.values()} == {4}
    for score in screen_validation.DIVIDING:
        values = own.set_index("row")[score]
        top, bottom = values[sets[score, "top"]], values[sets[score, "bottom"]]
        assert top.min() >= values.drop(top.index).max()
        assert bottom.max() <= values.drop(bottom.index).min()
    assert sets == screen_validation.thirds(own, 1)
    assert sets["any", "random"] != screen_validation.thirds(own, 2)["any", "random"]


def test_claims_tell_an_order_from_its_opposite(rows: pd.DataFrame, outcomes: pd.DataFrame) -> None:
    verdicts = {claim.key: claim.verdict for claim in screen_validation.claims(rows, outcomes)}
    for measure in ("fraction", "refusals"):
        for kind in ("", ":order", ":spearman", ":auroc"):
            assert verdicts[f"adamw:{measure}{kind}"] == "supported"
            assert verdicts[f"sgd:{measure}{kind}"] == "contradicted"
    assert verdicts["projection_difference:fraction"] != "supported"
    assert verdicts["adamw:planted"] == "supported"
    assert verdicts["adamw:sgd"] == verdicts["adamw:projection_difference"] == "supported"


def test_a_first_update_that_is_as_predicted_supports_its_claims() -> None:
    table = pd.DataFrame(
        {
            "task": "answers", "seed": seed, "when": when,
            "alignment": 0.4 + seed / 100 + (0.1 if when == "plain" else 0), "fraction": 0.02 + seed / 1000,
        }
        for seed in range(5) for when in ("plain", "adamw", "1", "20")
    )  # fmt: skip
    assert {claim.verdict for claim in first_update.claims(table)} == {"supported"}
