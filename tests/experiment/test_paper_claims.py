from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest

from revlens.direction.nulls import NULLS
from revlens.errors import NonFiniteError
from revlens.experiment import ArmTables
from revlens.experiment.arms.paper_claims import assess_paper
from revlens.experiment.arms.tables import with_derived
from revlens.results import MIN_RUNS, Claim, headline_first, to_records
from revlens.statistics import Estimate
from revlens.training import ARMS

SEEDS, STEPS, LAYERS = tuple(range(MIN_RUNS)), (1, 20, 30), (0, 1)
ALIGNMENT = {"baseline": 0.5, "block": -0.25, "push": 0.75, "random": 0.5, "rehearsal": 0.25, "kl": 0.5}
HARM = {"baseline": 0.5, "block": 0.25, "push": 0.75, "random": 0.5, "rehearsal": 0.25, "kl": 0.5}


#: Share of the harmful drift in each part.
PARTS = {"harmful": 1.0, "harmless": 0.25, "separation": 0.75, "reference": 0.5}


def claim(
    low: float, high: float, *, above: float | None = None, below: float | None = None, n: int = MIN_RUNS
) -> Claim:
    return Claim("key", "statement", "", Estimate((low + high) / 2, low, high, n), low=above, high=below)


def made_results(arms: tuple[str, ...] = ARMS) -> ArmTables:
    """Seeds and steps shift alignment and harmfulness alike in every arm.

    Layers lie around their mean; the naive arm adds 1/8.
    """
    runs = pd.DataFrame(product(arms, SEEDS), columns=["arm", "seed"])
    steps = runs.merge(pd.DataFrame({"step": STEPS}), how="cross")
    shift = steps["seed"] / 32 + steps["step"] / 256
    rows = [
        steps.assign(
            layer=layer,
            estimate=estimate,
            alignment=steps["arm"].map(ALIGNMENT) + shift + (layer - 0.5) / 4 + bias,
            fraction=steps["arm"].map(ALIGNMENT) + shift,
            drift_norm=steps["step"] + steps["seed"] / 8,
        )
        for layer, (estimate, bias) in product(LAYERS, (("cross-fitted", 0.0), ("naive", 0.125)))
    ]
    nulls = [
        steps.assign(null=null, exceeds=float(null != "relabelled"), p99=0.25 + steps["step"] / 1000)
        for null in NULLS
    ]
    parts = [
        steps.assign(layer=layer, part=part, fraction=steps["arm"].map(ALIGNMENT) * share)
        for layer, (part, share) in product(LAYERS, PARTS.items())
    ]
    direction = pd.DataFrame(product(SEEDS, LAYERS), columns=["seed", "layer"])
    start = runs.assign(step=0, harmfulness=runs["seed"] / 64)
    behaviour = pd.concat(
        [start, steps.assign(harmfulness=steps["arm"].map(HARM) + shift / 2)], ignore_index=True
    )
    behaviour = behaviour.assign(
        substantive_harm=behaviour["harmfulness"] / 2,
        refusal=1 - behaviour["harmfulness"],
        over_refusal=0.125,
        task_loss=1.0,
    )
    return ArmTables(
        {
            "alignment": pd.concat(rows),
            "drift_parts": pd.concat(parts),
            "direction": direction.assign(gap=1.0, reference_norm=8.0),
            "nulls": pd.concat(nulls),
            "behaviour": behaviour,
            "training": steps,
            "phases": pd.DataFrame({"phase": "aligned", "seed": SEEDS, "refusal": 1.0, "over_refusal": 0.0}),
        }
    )


def assess_all(results: ArmTables) -> list[Claim]:
    return assess_paper(with_derived(results))


def assessed(results: ArmTables) -> dict[str, Claim]:
    return {claim.key: claim for claim in assess_all(results)}


def test_an_interval_inside_the_range_supports_the_claim() -> None:
    assert claim(0.1, 0.3, above=0.0).verdict == "supported"
    assert claim(-0.3, -0.1, below=0.0).verdict == "supported"
    assert claim(0.1, 0.3, above=0.0, below=0.5).verdict == "supported"


def test_an_interval_outside_the_range_contradicts_it() -> None:
    assert claim(-0.3, -0.1, above=0.0).verdict == "contradicted"
    assert claim(0.1, 0.3, below=0.0).verdict == "contradicted"
    assert claim(0.6, 0.8, above=0.0, below=0.5).verdict == "contradicted"


def test_an_interval_across_an_end_of_the_range_is_undecided() -> None:
    assert claim(-0.1, 0.1, above=0.0).verdict == "undecided"
    assert claim(-0.1, 0.1, below=0.0).verdict == "undecided"
    assert claim(-1.0, 1.0, above=0.0, below=0.5).verdict == "undecided"


def test_the_ends_do_not_belong_to_the_range() -> None:
    assert claim(0.0, 0.2, above=0.0).verdict == "undecided"
    assert claim(0.3, 0.5, above=0.0, below=0.5).verdict == "undecided"
    assert claim(-0.2, 0.0, above=0.0).verdict == "contradicted"
    assert claim(0.5, 0.7, above=0.0, below=0.5).verdict == "contradicted"


def test_too_few_runs_decide_nothing() -> None:
    for low, high in ((0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)):
        assert claim(low, high, above=0.0, n=MIN_RUNS - 1).verdict == "too few runs"
        assert claim(low, high, above=0.0, n=MIN_RUNS).verdict != "too few runs"


def test_the_rule_says_the_range_in_words() -> None:
    assert claim(0.0, 1.0, above=0.5).rule == "above 0.5"
    assert claim(0.0, 1.0, below=0.0).rule == "below 0"
    assert claim(0.0, 1.0, above=1 / 1.05, below=1.05).rule == "between 0.952 and 1.05"


def test_every_arm_brings_its_claims() -> None:
    claims = assessed(made_results())
    assert {key: claim.verdict for key, claim in claims.items()} == {
        "fraction-1": "supported",
        "alignment-1": "supported",
        "fraction-20": "supported",
        "alignment-20": "supported",
        "alignment-rises": "supported",
        "fraction-30": "supported",
        "alignment-30": "supported",
        "alignment-persists": "supported",
        "naive-bias": "supported",
        "shallow": "supported",
        "specific": "supported",
        "beyond-task": "supported",
        "exceeds-isotropic": "supported",
        "exceeds-isotropic-layers": "supported",
        "exceeds-covariance": "supported",
        "exceeds-relabelled": "contradicted",
        "refusal-falls": "supported",
        "harmfulness-rises": "supported",
        "substantive_harm-rises": "supported",
        "baseline-harmfulness-last": "supported",
        "block-harmfulness-last": "supported",
        "block-alignment-last": "supported",
        "block-fraction": "supported",
        "block-alignment": "supported",
        "block-refusal": "supported",
        "block-harmfulness": "supported",
        "block-substantive_harm": "supported",
        "push-fraction": "supported",
        "push-alignment": "supported",
        "push-refusal": "supported",
        "push-harmfulness": "supported",
        "push-substantive_harm": "supported",
        "order-alignment": "supported",
        "order-harmfulness": "supported",
        "random-fraction": "supported",
        "random-refusal": "supported",
        "random-harmfulness": "supported",
        "block-beats-random": "supported",
        "block-over-refusal": "supported",
        "task-cost": "supported",
        "association": "supported",
        "association-alignment-within-arms": "supported",
        "association-fraction-within-arms": "supported",
        "association-alignment-unguarded": "supported",
        "association-fraction-unguarded": "supported",
        "association-lead": "supported",
    }
    assert all(claim.estimate.n == len(SEEDS) for claim in claims.values())


def test_estimates_are_means_over_runs_paired_by_seed() -> None:
    claims = assessed(made_results())
    assert (
        claims["alignment-20"].estimate.value == 0.640625
    )  # 1/2 + 2/32 (the mean seed) + 20/256 (the step); layers cancel
    assert claims["naive-bias"].estimate == Estimate(0.125, 0.125, 0.125, 5, p=2 / 32)
    assert claims["block-alignment"].estimate == Estimate(-0.75, -0.75, -0.75, 5, p=2 / 32)
    assert claims["push-harmfulness"].estimate == Estimate(0.25, 0.25, 0.25, 5, p=2 / 32)
    assert claims["harmfulness-rises"].estimate == Estimate(
        0.55859375, 0.55859375, 0.55859375, 5, p=2 / 32
    )  # 1/2 + 30/512
    assert claims["task-cost"].estimate == Estimate(1.0, 1.0, 1.0, 5)
    margin = 0.25 * 0.75  # a quarter of what block does
    assert (claims["random-fraction"].low, claims["random-fraction"].high) == (-margin, margin)
    assert claims["block-beats-random"].estimate.value == -claims["block-harmfulness"].estimate.value
    assert claims["shallow"].estimate.value == 0.125
    assert claims["order-harmfulness"].estimate.value == 0.25


def test_the_second_reading_asks_whether_the_papers_number_is_in_the_interval() -> None:
    def read(value: float | None, n: int = MIN_RUNS) -> bool | None:
        return Claim("key", "", "", Estimate(0.5, 0.4, 0.6, n), low=0.0, paper_value=value).holds_paper

    assert [read(value) for value in (0.4, 0.55, 0.6)] == [True] * 3
    assert [read(value) for value in (0.39, 0.61, -0.5)] == [False] * 3
    assert read(None) is None
    assert read(0.5, n=MIN_RUNS - 1) is None


def test_headline_claims_come_first_and_are_marked() -> None:
    claims = [Claim(key, "", "", Estimate(0.5, 0.4, 0.6, 5), low=0.0) for key in "abcd"]
    ordered = headline_first(claims, ("d", "b"))
    assert [(claim.key, claim.headline) for claim in ordered] == [
        ("b", True), ("d", True), ("a", False), ("c", False),
    ]  # fmt: skip


def test_what_passes_a_null_stands_beside_its_share() -> None:
    claims = assessed(made_results())
    assert claims["exceeds-covariance"].statement.endswith(
        "99th percentile of the covariance null (share; a cosine passes above 0.25 to 0.28)"
    )
    assert [claims[f"exceeds-{name}"].paper for name in NULLS] == [null.paper for null in NULLS.values()]
    assert [name for name, null in NULLS.items() if null.paper == "24/24"] == ["isotropic"]


def test_a_dearer_task_contradicts_the_claim_of_no_cost() -> None:
    results = made_results()
    table = results["behaviour"]
    table.loc[table["arm"] == "block", "task_loss"] += np.log(1.25)
    cost = assessed(results)["task-cost"]
    assert cost.estimate.value == pytest.approx(1.25)
    assert cost.verdict == "contradicted"


def test_a_block_that_refuses_harmless_prompts_contradicts_the_claim_that_it_is_selective() -> None:
    results = made_results()
    table = results["behaviour"]
    table.loc[table["arm"] == "block", "over_refusal"] += 0.25
    over = assessed(results)["block-over-refusal"]
    assert over.estimate.value == pytest.approx(0.25)
    assert over.verdict == "contradicted"


def test_the_papers_numbers_stand_only_at_its_steps() -> None:
    claims = assessed(made_results())
    papers = [claims[f"alignment-{step}"].paper for step in STEPS]
    assert papers == ["0.429 ± 0.052", "0.647 ± 0.021", ""]


@pytest.mark.parametrize(
    "arms", [("baseline",), ("baseline", "block"), ("baseline", "push"), ("baseline", "random"), ARMS]
)
def test_an_absent_arm_brings_no_claim(arms: tuple[str, ...]) -> None:
    about_arms = {key for key in assessed(made_results(arms)) if key.partition("-")[0] in {*ARMS, "task"}}
    expected = {
        f"{arm}-{m}"
        for arm in {"block", "push"} & set(arms)
        for m in ("fraction", "alignment", "refusal", "harmfulness", "substantive_harm")
    } | {"baseline-harmfulness-last"}
    if "block" in arms:
        expected |= {"block-over-refusal", "task-cost", "block-harmfulness-last", "block-alignment-last"}
    if {"block", "random"} <= set(arms):  # what block does is the yardstick for "about equal"
        expected |= {"random-fraction", "random-refusal", "random-harmfulness", "block-beats-random"}
    assert about_arms == expected


def test_row_order_changes_nothing() -> None:
    results = made_results()
    shuffled = ArmTables(
        {name: table.sample(frac=1.0, random_state=1) for name, table in results.tables.items()}
    )
    for ours, theirs in zip(assess_all(results), assess_all(shuffled), strict=True):
        assert (ours.key, ours.verdict, ours.rule) == (theirs.key, theirs.verdict, theirs.rule)
        assert (ours.estimate.low, ours.estimate.high) == pytest.approx(
            (theirs.estimate.low, theirs.estimate.high)
        )


def test_constant_harmfulness_brings_no_association() -> None:
    results = made_results()
    results["behaviour"]["harmfulness"] = 0.5
    claims = assessed(results)
    assert not any(key.startswith("association") for key in claims)
    assert claims["harmfulness-rises"].verdict == "contradicted"


def test_a_random_arm_equal_to_the_baseline_is_never_contradicted() -> None:
    """Also where block does nothing, so that a share of its effect is no room at all."""
    results = made_results()
    results["behaviour"]["harmfulness"] = 0.5
    claims = assessed(results)
    assert "random-harmfulness" not in claims or claims["random-harmfulness"].verdict != "contradicted"


def first_run(table: pd.DataFrame, arm: str, step: int) -> pd.Series:
    return (table["arm"] == arm) & (table["seed"] == SEEDS[0]) & (table["step"] == step)


@pytest.mark.parametrize(
    ("name", "column", "rows"),
    [
        pytest.param(
            "behaviour", "harmfulness", lambda t: first_run(t, "baseline", 0), id="harmfulness before"
        ),
        pytest.param("behaviour", "harmfulness", lambda t: first_run(t, "push", 30), id="harmfulness after"),
        pytest.param(
            "behaviour", "harmfulness", lambda t: first_run(t, "push", 20), id="harmfulness between"
        ),
        pytest.param("behaviour", "task_loss", lambda t: first_run(t, "block", 30), id="task loss"),
        pytest.param("alignment", "alignment", lambda t: first_run(t, "baseline", 1), id="alignment"),
        pytest.param("alignment", "alignment", lambda t: first_run(t, "push", 20), id="alignment between"),
        pytest.param(
            "alignment",
            "alignment",
            lambda t: first_run(t, "baseline", 1) & (t["layer"] == 1),
            id="alignment at one layer",
        ),
    ],
)
def test_a_missing_value_is_an_error_and_drops_no_run(
    name: str, column: str, rows: Callable[[pd.DataFrame], pd.Series]
) -> None:
    results = made_results()
    results[name].loc[rows(results[name]), column] = np.nan
    with pytest.raises(NonFiniteError, match="nan"):
        assess_all(results)


def test_records_of_claims_spell_out_rule_and_verdict() -> None:
    claims = [claim(0.1, 0.3, above=0.0), claim(0.1, 0.3, below=0.0)]
    first, second = json.loads(json.dumps(to_records(claims)))
    assert (first["rule"], first["verdict"]) == ("above 0", "supported")
    assert (second["rule"], second["verdict"]) == ("below 0", "contradicted")
    assert first["estimate"] == {"value": 0.2, "low": 0.1, "high": 0.3, "n": MIN_RUNS, "p": None}
    assert (first["low"], first["high"]) == (0.0, None)


def test_other_guards_are_claimed_to_keep_refusals_and_rehearsal_to_cut_reversion() -> None:
    claims = assessed(made_results((*ARMS, "rehearsal", "kl")))
    assert claims["rehearsal-refusal"].estimate.value == pytest.approx(0.25)
    assert claims["rehearsal-refusal"].verdict == "supported"
    assert claims["kl-refusal"].estimate.value == pytest.approx(0)
    # Trapezoids through (0, 0) and the steps 1, 20 and 30: a quarter less of 0.5 + seed / 32 + step / 256.
    cut = 0.25 * (0.5 + 29)
    whole = 0.5 * (0.5 + 2 / 32 + 1 / 256) + 29 * (0.5 + 2 / 32) + (30**2 - 1) / 512
    assert claims["rehearsal-cut"].estimate.value == pytest.approx(cut / whole)
    assert claims["rehearsal-cut"].paper_value == 0.3
    assert not {"rehearsal-cut", "kl-refusal"} & assessed(made_results()).keys()
