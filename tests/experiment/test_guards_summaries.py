"""What the study's tables are made to say, on tables whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from revlens.experiment import GuardTables, against_baseline, chosen_on_other_seeds, routes
from revlens.experiment.guards.early_warning import early_warning
from revlens.experiment.guards.summaries import cumulative_reversion
from revlens.experiment.guards.tables import ABOUT
from revlens.results import OVER_REFUSAL, PERPLEXITY_FACTOR

SEEDS = (0, 1, 2)


def run(part: str, seed: int, method: str, strength: float = np.nan, **values: Any) -> dict[str, Any]:
    about = {
        "part": part,
        "seed": seed,
        "method": method,
        "strength": strength,
        "until": np.nan,
        "task": "checklists",
        "rate": 1.0,
    }
    return (
        about
        | {
            "direction": "own",
            "step": 100,
            "harmfulness": 0.5,
            "refusal": 0.5,
            "over_refusal": 0.0,
            "task_loss": 1.0,
            "alignment": 0.3,
        }
        | values
    )


def tables(behaviour: list[dict[str, Any]], **others: list[dict[str, Any]]) -> GuardTables:
    return GuardTables(
        {"behaviour": pd.DataFrame(behaviour)} | {name: pd.DataFrame(rows) for name, rows in others.items()}
    )


def grid(**harm_by_strength: dict[float, tuple[float, float, float]]) -> list[dict[str, Any]]:
    """A baseline of 0.5, and methods of (refusals lost, log perplexity ratio, over-refusal) by strength.

    Every seed has the same values.
    """
    rows = [run("grid", seed, "baseline") for seed in SEEDS]
    for method, strengths in harm_by_strength.items():
        for strength, (harm, loss, over) in strengths.items():
            rows += [
                run("grid", s, method, strength, refusal=1 - harm, task_loss=1.0 + loss, over_refusal=over)
                for s in SEEDS
            ]
    return rows


def test_every_run_stands_beside_the_baseline_of_its_seed_and_step() -> None:
    rows = [run("grid", seed, "baseline", harmfulness=0.1 * seed, task_loss=1.0) for seed in SEEDS]
    rows += [run("grid", seed, "block", 5.0, task_loss=1.0 + np.log(1.2)) for seed in SEEDS]
    table = against_baseline(tables(rows)).query("method == 'block'")
    assert table["harmfulness_base"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert table["perplexity_ratio"].tolist() == pytest.approx([1.2] * 3)


def test_a_guard_switched_off_has_the_long_baseline_beside_it() -> None:
    rows = [run("grid", seed, "baseline", harmfulness=0.9) for seed in SEEDS]
    rows += [
        run("lasting", seed, "baseline", harmfulness=step / 1000, step=step)
        for seed in SEEDS
        for step in (100, 300)
    ]
    rows += [run("released", seed, "block", 5.0, step=step) for seed in SEEDS for step in (100, 300)]
    table = against_baseline(tables(rows), "released")
    assert table["harmfulness_base"].tolist() == pytest.approx([0.1, 0.3] * 3)


def test_the_strength_with_most_refusals_within_the_limits_is_chosen() -> None:
    too_dear, too_shy = np.log(PERPLEXITY_FACTOR) + 0.01, OVER_REFUSAL + 0.01
    methods = {
        "block": {
            0.1: (0.4, 0.0, 0.0),
            1.0: (0.2, 0.01, 0.0),
            10.0: (0.1, too_dear, 0.0),
            100.0: (0.0, 0.0, too_shy),
        }
    }
    chosen = chosen_on_other_seeds(tables(grid(**methods)))
    assert chosen.query("method == 'block'")["strength"].tolist() == [1.0] * 3


def test_the_weakest_is_taken_where_none_keeps_to_the_limits() -> None:
    methods = {"l2sp": {0.1: (0.3, 1.0, 0.0), 1.0: (0.0, 2.0, 0.0)}}
    assert (
        chosen_on_other_seeds(tables(grid(**methods))).query("method == 'l2sp'")["strength"].tolist()
        == [0.1] * 3
    )


def test_a_seed_has_no_part_in_the_choice_of_its_strength() -> None:
    rows = grid(block={0.1: (0.3, 0.0, 0.0), 1.0: (0.4, 0.0, 0.0)})
    for row in rows:  # for seed 0 alone the stronger is far better; the others say no
        if row["seed"] == 0 and row["strength"] == 1.0:
            row["refusal"] = 1.0
    chosen = chosen_on_other_seeds(tables(rows)).query("method == 'block'").set_index("seed")["strength"]
    assert chosen[0] == 0.1
    assert chosen[1] == chosen[2] == 1.0  # means of 0.0 and 0.4 against 0.3 and 0.3


def test_a_strength_at_which_a_run_failed_is_not_eligible() -> None:
    rows = grid(block={0.1: (0.3, 0.0, 0.0), 1.0: (0.0, 0.0, 0.0)})
    rows = [row for row in rows if not (row["seed"] == 2 and row["strength"] == 1.0)]
    chosen = chosen_on_other_seeds(tables(rows)).query("method == 'block'").set_index("seed")["strength"]
    assert chosen[0] == chosen[1] == 0.1


def test_cumulative_reversion_is_the_area_under_the_fraction_by_the_number_of_updates() -> None:
    """From 0 at the start, 0.2 at step 10, 0.4 at step 30: (10 * 0.1 + 20 * 0.3) / 30."""
    readings = [
        run("grid", seed, "baseline") | {"step": step, "fraction": f}
        for seed in SEEDS
        for step, f in ((10, 0.2), (30, 0.4))
    ]
    values = cumulative_reversion(tables(grid(), readings=readings), "baseline", np.nan)
    assert values.tolist() == pytest.approx([7 / 30] * 3)


def test_random_places_are_averaged_and_what_is_lost_is_the_own_place_minus_the_baselines() -> None:
    places = [
        ("v_rev", "baseline", 0.7),
        ("v_rev", "own", 0.2),
        ("random", "baseline", 0.1),
        ("random", "baseline", 0.3),
    ]
    rows = [
        run("grid", 0, "block", 5.0)
        | {"model": "block", "clamped": clamped, "place": place, "draw": draw, "refusal": kept}
        for draw, (clamped, place, kept) in enumerate((*places, ("none", "as it is", 0.25)))
    ]
    (row,) = routes(tables(grid(), routes=rows)).to_dict("records")
    assert (row["baseline"], row["own"], row["random"], row["as_it_is"]) == pytest.approx(
        (0.7, 0.2, 0.2, 0.25)
    )
    assert row["lost"] == pytest.approx(-0.5)


def early(harm: dict[float, float], alignment: dict[float, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Unguarded runs at several rates, the same for every seed but for a shift that keeps ranks."""
    rows = [
        run("early", seed, "baseline", rate=rate, harmfulness=value + 0.001 * seed)
        for seed in SEEDS
        for rate, value in harm.items()
    ]
    readings = [
        run("early", seed, "baseline", rate=rate, step=step)
        | {"alignment": value, "fraction": -value, "drift_norm": 1.0, "kl": value, "loss": 3.0 - step * value}
        for seed in SEEDS
        for rate, value in alignment.items()
        for step in (1, 20)
    ]
    return pd.DataFrame(rows), pd.DataFrame(readings)


def test_a_perfect_predictor_has_area_one_its_opposite_none_and_a_constant_a_half() -> None:
    table = early_warning(
        *early(harm={0.5: 0.0, 1.0: 0.1, 2.0: 0.9}, alignment={0.5: 0.1, 1.0: 0.2, 2.0: 0.6})
    ).set_index(["predictor", "step"])
    assert table.loc[("alignment", 20), "auroc"] == table.loc[("loss_drop", 20), "auroc"] == 1.0
    assert table.loc[("fraction", 20), "auroc"] == 0.0
    assert table.loc[("drift_norm", 20), "auroc"] == 0.5
    assert table.loc[("drift_norm", 20), "lead"] == pytest.approx(0.5)
    assert table.loc[("kl", 20), "lead"] == pytest.approx(0.0)
    assert np.isnan(table.loc[("drift_norm", 20), "rank"])  # a constant has no ranks
    assert table.loc[("alignment", 20), "rank"] == pytest.approx(-table.loc[("fraction", 20), "rank"])
    assert (table["n_runs"] == 9).all()
    assert (table["n_harmed"] == 3).all()


def test_at_the_first_step_the_loss_has_not_dropped_yet() -> None:
    table = early_warning(*early(harm={0.5: 0.0, 2.0: 0.9}, alignment={0.5: 0.1, 2.0: 0.6})).set_index(
        ["predictor", "step"]
    )
    assert table.loc[("loss_drop", 1), "auroc"] == 0.5


def test_where_every_run_is_harmed_no_area_is_made_up() -> None:
    table = early_warning(*early(harm={0.5: 0.8, 2.0: 0.9}, alignment={0.5: 0.1, 2.0: 0.6}))
    assert table["auroc"].isna().all()
    assert table.set_index(["predictor", "step"]).loc[("alignment", 20), "rank"] > 0


def test_the_columns_that_tell_runs_apart_are_there() -> None:
    assert set(ABOUT) <= set(against_baseline(tables(grid())).columns)
