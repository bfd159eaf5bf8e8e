"""What arms an experiment may have, and at which strengths."""

from __future__ import annotations

import re
from typing import Any

import pytest

from revlens.errors import ConfigError
from revlens.experiment import Arms, ExperimentConfig

GUARDED = ("baseline", "block", "random", "rehearsal", "projection")


def test_any_guard_can_be_an_arm_with_a_strength_of_its_own() -> None:
    plan = Arms(arms=GUARDED, strengths={"rehearsal": 0.1, "block": 2.0})
    strengths = {arm.label: arm.strength for arm in ExperimentConfig(seeds=(0,), plan=plan).fine_tunes()}
    assert strengths == {
        "baseline": None,
        "block": 2.0,
        "random": 2.0,  # matched with block, so of block's strength
        "rehearsal": 0.1,
        "projection": None,
        "reference": None,
    }


def test_causality_is_tested_on_the_first_runs() -> None:
    config = ExperimentConfig(seeds=(4, 5, 6), plan=Arms(arms=GUARDED[:2], causal_runs=2))
    assert [unit.seed for unit in config.fine_tunes() if "causal" in unit.kinds] == [4, 5]
    everywhere = config.with_plan(Arms(arms=GUARDED[:2]))
    assert [unit.seed for unit in everywhere.fine_tunes() if "causal" in unit.kinds] == [4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"arms": GUARDED}, "strengths must have rehearsal (rehearsal: share of refusals in the loss)."),
        ({"strengths": {"kl": 1.0}}, "strengths has kl, which no arm of arms="),
        ({"arms": GUARDED[:3], "strengths": {"random": 1.0}}, "strengths has random, which no arm of arms="),
        ({"strengths": {"block": 0.0}}, "strengths.block=0.0 must be positive."),
        ({"causal_runs": 0}, "causal_runs=0 must be positive."),
        ({"arms": ("baseline", "chess")}, "must be distinct, among"),
    ],
)
def test_what_does_not_suit_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        Arms(**settings)
