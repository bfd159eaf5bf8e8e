from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from revlens.errors import ResultsError
from revlens.experiment import ArmTables, GuardTables
from revlens.figures import REPORTS
from revlens.figures.replies import ReplyView, as_json, packed
from revlens.results import Tables


def rows_of(n_prompts: int, reply: str = "No.") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "step": 3, "split": "behaviour", "prompt": f"Why {i}?"}
            | {"reply": f"{reply} {arm} {i}", "outcome": "refusal" if i else "mixed"}
            for arm in ("baseline", "block")
            for seed in (0, 1)
            for i in range(n_prompts)
        ]
    )


def unpacked(data: dict[str, Any]) -> set[tuple[str, ...]]:
    """Every reply that a page's browser can show."""
    shown: set[tuple[str, ...]] = set()
    for view in data["views"]:
        for arm, seed, step, split, replies, outcomes in view["cells"]:
            for prompt, reply, outcome in zip(data["prompts"][split], replies, outcomes, strict=True):
                if reply >= 0:
                    where = (view["heading"], view["arms"][arm], view["seeds"][seed], view["steps"][step])
                    what = data["outcomes"][int(outcome)]
                    shown.add((*where, split, prompt, data["texts"][reply], what))
    return shown


def stored(views: list[ReplyView]) -> set[tuple[str, ...]]:
    columns = ["arm", "seed", "step", "split", "prompt", "reply", "outcome"]
    return {
        (view.heading, *map(str, row)) for view in views for row in view.rows[columns].itertuples(index=False)
    }


def views_of(plan: str, tables: Tables) -> list[ReplyView]:
    return [view for section in REPORTS[plan].sections for view in section.replies(tables)]


def test_every_stored_reply_of_the_arms_can_be_shown(results: ArmTables) -> None:
    views = views_of("arms", results)
    assert {len(view.rows) for view in views} == {
        len(results[name]) for name in ("replies", "phase_replies", "intervened_replies")
    }
    assert unpacked(packed(views)) == stored(views)


def test_every_stored_reply_of_a_study_can_be_shown(study_tables: GuardTables) -> None:
    views = views_of("guards", study_tables)
    n_stored = len(study_tables["replies"]) + len(study_tables["route_replies"])
    assert sum(len(view.rows) for view in views) == n_stored
    assert unpacked(packed(views)) == stored(views)
    for view in views:  # a name stands for one fine-tune or clamp
        assert not view.rows.duplicated(["arm", "seed", "step", "split", "prompt"]).any()


def test_a_text_is_there_once() -> None:
    rows = rows_of(3).assign(reply="No.")
    assert as_json(packed([ReplyView("arms", rows)])).count("No.") == 1


def test_over_the_budget_the_first_prompts_stay_for_every_arm() -> None:
    view, budget = ReplyView("arms", rows_of(20, "No, " * 10)), 2_000
    data = packed([view], budget)
    assert len(as_json(data)) <= budget + len(data["note"])
    kept = data["prompts"]["behaviour"]
    assert kept == [f"Why {i}?" for i in range(len(kept))]
    assert data["note"] == f"The first {len(kept)} prompts of each kind; all replies are in the tables."
    assert {row[1] for row in unpacked(data)} == {"baseline", "block"}
    assert packed([view])["note"] == ""


def test_an_outcome_without_a_colour_is_refused() -> None:
    with pytest.raises(ResultsError, match="'shrug'"):
        packed([ReplyView("arms", rows_of(1).assign(outcome="shrug"))])
