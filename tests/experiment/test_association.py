"""The table of what behaviour goes with, on points whose ranks are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from revlens.errors import ConfigError, NonFiniteError
from revlens.experiment.arms.association import (
    ASSOCIATION_SCOPES,
    OUTCOMES,
    PREDICTORS,
    association_estimate,
    association_table,
)

SEEDS, STEPS = range(4), (1, 10, 100)


def points(arms: tuple[str, ...] = ("baseline", "block", "push")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(product(arms, SEEDS, STEPS), columns=["arm", "seed", "step"])
    table["alignment"] = rng.normal(size=len(table))
    table["fraction"] = table["alignment"] + 0.3 * rng.normal(size=len(table))
    table["drift_norm"] = rng.random(len(table))
    table["harmfulness"] = np.exp(table["alignment"]).round(1)  # with ties
    table["refusal"] = -table["fraction"]
    table["kl"] = 1.0
    return table


def associated(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["seed", "arm", "step"]
    drift = table[[*keys, "alignment", "fraction", "drift_norm"]]
    behaviour = table.drop(columns=["alignment", "fraction", "drift_norm"])
    start = behaviour[behaviour["step"] == 1].assign(step=0)  # without drift, so in no row
    return association_table(drift, pd.concat([start, behaviour]).sample(frac=1.0, random_state=0))


def row_of(table: pd.DataFrame, outcome: str, predictor: str, scope: str) -> pd.Series:
    (row,) = (
        row
        for _, row in table.iterrows()
        if (row["outcome"], row["predictor"], row["scope"]) == (outcome, predictor, scope)
    )
    return row


def test_there_is_a_row_for_each_outcome_predictor_and_scope() -> None:
    table = associated(points())
    found = table[["outcome", "predictor", "scope"]].itertuples(index=False, name=None)
    assert list(found) == list(product(OUTCOMES, PREDICTORS, ASSOCIATION_SCOPES))
    without = associated(points().drop(columns="kl"))
    assert "kl" not in set(without["predictor"])
    assert len(without) == len(table) * 4 // 5


@pytest.mark.parametrize(("outcome", "predictor"), [("harmfulness", "alignment"), ("refusal", "drift_norm")])
def test_correlations_are_those_of_the_points_of_a_scope(outcome: str, predictor: str) -> None:
    made = points()

    def by_hand(rows: pd.DataFrame) -> float:
        return float(spearmanr(rows[predictor], rows[outcome]).statistic)

    expected = {
        "all": by_hand(made),
        "within arms": np.mean([by_hand(rows) for _, rows in made.groupby("arm")]),
        "unguarded": by_hand(made[made["arm"] == "baseline"]),
    }
    table = associated(made)
    for scope, value in expected.items():
        row = row_of(table, outcome, predictor, scope)
        assert row["spearman"] == pytest.approx(value)
        assert row["spearman_low"] <= value <= row["spearman_high"]
        assert row["n_runs"] == len(SEEDS)


def test_the_interval_is_that_of_all_resamples_of_runs() -> None:
    made = points(("baseline",))
    by_seed = dict(list(made.groupby("seed")))
    everything = []
    for pick in product(SEEDS, repeat=len(SEEDS)):
        rows = pd.concat([by_seed[seed] for seed in pick])
        everything.append(spearmanr(rows["fraction"], rows["harmfulness"]).statistic)
    row = row_of(associated(made), "harmfulness", "fraction", "unguarded")
    # Of 4 runs the interval is expanded nearly to the range.
    assert row["spearman_low"] == pytest.approx(np.quantile(everything, 0.0004, method="inverted_cdf"))
    assert row["spearman_high"] == pytest.approx(np.quantile(everything, 0.9996, method="inverted_cdf"))


def test_a_lead_is_how_much_closer_alignment_goes_with_the_outcome_in_its_sign() -> None:
    table = associated(points())
    for outcome, sign in OUTCOMES.items():
        for scope in ASSOCIATION_SCOPES:
            alignment = row_of(table, outcome, "alignment", scope)
            rival = row_of(table, outcome, "fraction", scope)
            assert rival["lead"] == pytest.approx(sign * (alignment["spearman"] - rival["spearman"]))
            assert association_estimate(alignment, "lead") is None
    assert row_of(table, "harmfulness", "fraction", "all")["lead"] > 0
    assert row_of(table, "refusal", "fraction", "all")["lead"] < 0


def test_a_constant_side_has_no_correlation_and_arms_without_any_harm_are_left_out() -> None:
    made = points()
    made.loc[made["arm"] == "block", "harmfulness"] = 0.0
    table = associated(made)
    assert association_estimate(row_of(table, "harmfulness", "kl", "all"), "spearman") is None
    within = row_of(table, "harmfulness", "alignment", "within arms")
    assert within["arms"] == "baseline, push"
    assert row_of(table, "refusal", "alignment", "within arms")["arms"] == "baseline, block, push"
    made["harmfulness"] = 0.0
    assert associated(made).query("outcome == 'harmfulness'")["spearman"].isna().all()


def test_missing_points_and_values_are_errors() -> None:
    with pytest.raises(ConfigError, match="Runs of arm 'push' are not all there at the same steps"):
        associated(points().iloc[:-1])
    made = points()
    made.loc[3, "fraction"] = np.nan
    with pytest.raises(NonFiniteError, match="fraction of arm 'baseline' must be finite"):
        associated(made)


def test_one_run_has_values_and_no_intervals() -> None:
    row = row_of(associated(points().query("seed == 0")), "refusal", "fraction", "all")
    assert row["spearman"] == row["spearman_low"] == row["spearman_high"] == pytest.approx(-1.0)
