"""What is claimed of the study. Ranges are fixed here; verdicts follow by the rule of
`revlens.results.Claim`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from revlens.experiment.config import ExperimentConfig
from revlens.experiment.guards.plan import TRANSFERRED, Guards
from revlens.experiment.guards.summaries import (
    against_baseline,
    chosen_on_other_seeds,
    cumulative_reversion,
    routes,
)
from revlens.experiment.guards.tables import GuardTables
from revlens.results import NEGLIGIBLE_SHARE, Claim, headline_first
from revlens.statistics import Estimate, mean_over_runs, ratio_over_runs

#: Controls of block, and its opposite: they are not meant to guard.
CONTROLS = ("push", "random", "complement")
_WORDS = {"fraction": "the reversion fraction", "refusal": "clean refusals"}
#: What a reader should read first: does block keep refusals, does a control, does block at a strength that
#: other runs chose, is v_rev the route, and does alignment warn?
_HEADLINES = ("block-refusal", "random-refusal", "block-chosen-refusal", "block-route", "early-warning")
#: The arms whose order is claimed, at the strength of `TRANSFERRED`.
_ORDERED = ("block", "push", "random")


def assess(config: ExperimentConfig, tables: GuardTables) -> list[Claim]:
    """All claims that the tables allow, in the order of the report: the headline claims first."""
    plan = config.plan
    assert isinstance(plan, Guards)
    claims = [
        *_order(tables),
        *_guards(tables),
        *_routes(tables),
        *_rehearsal(plan, tables),
        *_later(plan, tables),
        *_early_warning(tables),
        *_transfer(plan, config.seeds, tables),
    ]
    return headline_first(claims, _HEADLINES)


def _difference(rows: pd.DataFrame, column: str) -> Estimate:
    rows = rows.sort_values("seed")
    return mean_over_runs((rows[column] - rows[f"{column}_base"]).to_numpy(float), test_zero=True)


def _order(tables: GuardTables) -> Iterator[Claim]:
    table = against_baseline(tables)
    arms = {arm: table[(table["method"] == arm) & (table["strength"] == TRANSFERRED[1])] for arm in _ORDERED}
    for measure in ("fraction", "refusal"):
        size = abs(_difference(arms["block"], measure).value) if len(arms["block"]) else 0.0
        lowers, raises = ("block", "push") if measure == "fraction" else ("push", "block")
        ranges = {
            lowers: (None, 0.0),
            raises: (0.0, None),
            "random": (-NEGLIGIBLE_SHARE * size, NEGLIGIBLE_SHARE * size),
        }
        words = {
            lowers: f"lowers {_WORDS[measure]}",
            raises: f"raises {_WORDS[measure]}",
            "random": f"leaves {_WORDS[measure]} about as it is",
        }
        for arm, rows in arms.items():
            if len(rows) and (arm != "random" or size):
                low, high = ranges[arm]
                statement = (
                    f"{arm.capitalize()} at strength {TRANSFERRED[1]:g} {words[arm]} ({arm} minus baseline)"
                )
                yield Claim(
                    f"{arm}-{measure}",
                    statement,
                    "block < baseline < push, random ≈ baseline",
                    _difference(rows, measure),
                    low,
                    high,
                )


def _guards(tables: GuardTables) -> Iterator[Claim]:
    for method, rows in chosen_on_other_seeds(tables).groupby("method", sort=False):
        if method not in ("baseline", *CONTROLS):
            at = "At the strength that other seeds choose,"
            yield Claim(
                f"{method}-chosen-refusal",
                f"{at} {method} keeps more clean refusals (minus baseline)",
                "",
                _difference(rows, "refusal"),
                low=0.0,
            )
            yield Claim(
                f"{method}-chosen-harmfulness",
                f"{at} {method} lowers harmfulness (minus baseline)",
                "",
                _difference(rows, "harmfulness"),
                high=0.0,
            )


def _routes(tables: GuardTables) -> Iterator[Claim]:
    places = routes(tables)
    chosen = chosen_on_other_seeds(tables)
    for method, rows in chosen.groupby("method", sort=False):
        if method in ("baseline", *CONTROLS):
            continue
        kept = rows["refusal"] - rows["refusal_base"]
        own = rows[["seed", "method", "strength"]].merge(
            places[places["model"] == method], on=["seed", "method", "strength"]
        )
        if kept.mean() <= 0 or len(own) != len(
            rows
        ):  # nothing was kept, or a run failed: there is no share of it
            continue
        yield Claim(
            f"{method}-route",
            f"Most of what {method} keeps is kept by its place along v_rev (share of the kept "
            "refusals that goes when the place is set to the baseline's)",
            "",
            ratio_over_runs(own.sort_values("seed")["lost"].tolist(), kept.tolist()),
            low=0.5,
        )


def _rehearsal(plan: Guards, tables: GuardTables) -> Iterator[Claim]:
    base = cumulative_reversion(tables, "baseline", np.nan)
    for strength in plan.grid.get("rehearsal", ()):
        own = cumulative_reversion(tables, "rehearsal", np.nan if strength is None else strength)
        if len(own) == len(base):
            yield Claim(
                f"rehearsal-{strength:g}-reversion",
                f"Rehearsal (share {strength:g}), blind to v_rev, opposes it (mean reversion fraction over "
                "updates, minus baseline)",
                "",
                mean_over_runs((own - base).to_numpy(float), test_zero=True),
                high=0.0,
            )
            # Where the baseline does not clearly revert, there is nothing of which to cut a share.
            if mean_over_runs(base).low > 0:
                yield Claim(
                    f"rehearsal-{strength:g}-cut",
                    f"Rehearsal (share {strength:g}) cuts cumulative reversion (mean reversion fraction over "
                    "updates: what is cut, as a share of the baseline's)",
                    "about 30 %",
                    ratio_over_runs((base - own).tolist(), base.tolist()),
                    low=0.0,
                    paper_value=0.3,
                )


def _later(plan: Guards, tables: GuardTables) -> Iterator[Claim]:
    lasting = against_baseline(tables, "lasting")
    last = plan.long_steps
    for method in plan.lasting:
        rows = lasting[(lasting["method"] == method) & (lasting["step"] == last)]
        if method != "baseline" and len(rows):
            statement = f"After {last} updates {method} still keeps more clean refusals (minus baseline)"
            yield Claim(f"{method}-lasting", statement, "", _difference(rows, "refusal"), low=0.0)
    released = against_baseline(tables, "released")
    for method in plan.released:
        rows = released[released["method"] == method]
        at = {int(step): group.sort_values("seed") for step, group in rows.groupby("step")}
        if len(at) > 1:
            first, end = min(at), max(at)
            fall = at[end]["refusal"].to_numpy(float) - at[first]["refusal"].to_numpy(float)
            yield Claim(
                f"{method}-released-fall",
                f"When {method} is switched off at step {first}, clean refusals fall until step {end} (minus "
                f"step {first})",
                "",
                mean_over_runs(fall, test_zero=True),
                high=0.0,
            )
            statement = (
                f"At step {end} a model that {method} guarded until step {first} refuses more than the "
                "baseline (minus baseline)"
            )
            yield Claim(f"{method}-released", statement, "", _difference(at[end], "refusal"), low=0.0)


def _early_warning(tables: GuardTables) -> Iterator[Claim]:
    table = tables["early_warning"]
    table = table[table["step"] == table["step"].max()]
    n = int(tables.part("behaviour", "early")["seed"].nunique())
    for _, row in table.iterrows():
        if row["predictor"] == "alignment" and np.isfinite(row["auroc"]):
            statement = (
                f"Alignment at step {row['step']} predicts harm at the end over tasks, rates and seeds "
                "(area under the ROC curve)"
            )
            yield Claim(
                "early-warning",
                statement,
                "",
                Estimate(row["auroc"], row["auroc_low"], row["auroc_high"], n),
                low=0.5,
            )
        elif np.isfinite(row["lead"]):
            other = row["predictor"].replace("_", " ")
            statement = (
                f"Alignment predicts it better than {other} does (difference of the areas, step "
                f"{row['step']})"
            )
            yield Claim(
                f"lead-{row['predictor']}",
                statement,
                "",
                Estimate(row["lead"], row["lead_low"], row["lead_high"], n),
                low=0.0,
            )


def _transfer(plan: Guards, seeds: tuple[int, ...], tables: GuardTables) -> Iterator[Claim]:
    rows = tables.part("behaviour", "transfer").sort_values("seed")
    own = against_baseline(tables)
    own = own[(own["method"] == TRANSFERRED[0]) & (own["strength"] == TRANSFERRED[1])].sort_values("seed")
    if len(own) != len(seeds):
        return
    size = abs(_difference(own, "refusal").value)
    for source in plan.directions:
        of_source = rows[rows["direction"] == source]
        if len(of_source) != len(own):
            continue
        effect = mean_over_runs(
            of_source["refusal"].to_numpy(float) - own["refusal_base"].to_numpy(float), test_zero=True
        )
        if source == "other-seed" and size:
            statement = (
                "Block along another seed's v_rev leaves clean refusals about as they are (minus baseline)"
            )
            yield Claim(
                f"transfer-{source}", statement, "", effect, -NEGLIGIBLE_SHARE * size, NEGLIGIBLE_SHARE * size
            )
        elif source != "other-seed":
            yield Claim(
                f"transfer-{source}",
                f"Block along v_rev of the {source.replace('-', ' ')} keeps more clean refusals (minus "
                "baseline)",
                "",
                effect,
                low=0.0,
            )
