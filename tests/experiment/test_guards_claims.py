"""What is claimed of the study, on tables whose answers are known."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from revlens.experiment import GuardTables
from revlens.experiment.guards.claims import _rehearsal
from revlens.experiment.guards.plan import Guards
from revlens.results import MIN_RUNS, Claim

PLAN = Guards(grid={"baseline": (None,), "rehearsal": (0.1, 0.6)})


def of_rehearsal(
    baseline: float, rehearsed: dict[float, float], spread: tuple[float, float] = (0.1, 0.1)
) -> dict[str, Claim]:
    """Claims where the fraction stays at one value from the first update on.

    From seed to seed it grows by a share of its mean, ``spread``: of the baseline, and under rehearsal.
    """
    values = {("baseline", None): baseline} | {("rehearsal", share): f for share, f in rehearsed.items()}
    rows = [
        {
            "part": "grid",
            "method": method,
            "strength": strength,
            "seed": seed,
            "step": step,
            "fraction": fraction * (1 + spread[method == "rehearsal"] * (seed - MIN_RUNS // 2)),
        }
        for ((method, strength), fraction), seed, step in product(values.items(), range(MIN_RUNS), (1, 100))
    ]
    return {claim.key: claim for claim in _rehearsal(PLAN, GuardTables({"readings": pd.DataFrame(rows)}))}


def test_what_rehearsal_cuts_is_a_share_of_the_baselines_reversion() -> None:
    """The baseline's fraction differs between seeds, the share that is cut does not."""
    claims = of_rehearsal(0.5, {0.1: 0.35, 0.6: -0.1})
    papers, strong = claims["rehearsal-0.1-cut"], claims["rehearsal-0.6-cut"]
    assert papers.estimate.value == pytest.approx(0.3)
    assert strong.estimate.value == pytest.approx(1.2)
    assert papers.paper == "about 30 %"
    assert papers.verdict == strong.verdict == "supported"
    assert strong.holds_paper is False
    assert claims["rehearsal-0.1-reversion"].estimate.value == pytest.approx(-0.15 * 0.995)
    assert claims["rehearsal-0.1-reversion"].holds_paper is None


def test_rehearsals_share_is_read_twice() -> None:
    claims = of_rehearsal(0.5, {0.1: 0.35, 0.6: 0.5}, (0.0, 0.1))
    assert (claims["rehearsal-0.1-cut"].verdict, claims["rehearsal-0.1-cut"].holds_paper) == (
        "supported",
        True,
    )
    assert (claims["rehearsal-0.6-cut"].verdict, claims["rehearsal-0.6-cut"].holds_paper) == (
        "undecided",
        False,
    )
    worse = of_rehearsal(0.5, {0.1: 0.6, 0.6: 0.6})["rehearsal-0.1-cut"]
    assert (worse.verdict, worse.holds_paper) == ("contradicted", False)


def test_no_share_is_cut_of_a_baseline_that_does_not_clearly_revert() -> None:
    for baseline, spread in ((-0.2, 0.1), (0.1, 1.5)):
        claims = of_rehearsal(baseline, {0.1: -0.4, 0.6: -0.4}, (spread, 0.1))
        assert set(claims) == {"rehearsal-0.1-reversion", "rehearsal-0.6-reversion"}
