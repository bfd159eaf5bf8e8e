"""What models replied, packed for the browser of a report: arms side by side, outcomes coloured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from revlens.figures.style import OUTCOME_COLOURS, style_of

#: Most characters that the replies of a report take up. All replies are in the tables.
BUDGET = 2_000_000


@dataclass(frozen=True)
class ReplyView:
    """Replies that a reader compares.

    Attributes:
        heading: what is compared.
        rows: with columns ``arm`` (what stands side by side), ``seed``, ``step`` (empty where there is none),
            ``split``, ``prompt``, ``reply`` and ``outcome``.
    """

    heading: str
    rows: pd.DataFrame


def packed(views: Sequence[ReplyView], budget: int = BUDGET) -> dict[str, Any]:
    """Views as plain values for JSON: every text once, replies as numbers of texts.

    Where everything takes more than the budget, the first prompts of every split stay, as many as fit: chosen
    by their place, not by what was replied.

    Args:
        views: those without rows are left out.
        budget: most characters of the JSON.
    """
    views = [view for view in views if len(view.rows)]
    prompts = _prompts(views)
    n_most = max(map(len, prompts.values()), default=0)
    n_kept = n_most
    while len(as_json(result := _pack(views, prompts, n_kept))) > budget and n_kept > 1:
        n_kept = n_kept * 3 // 4
    result["note"] = (
        f"The first {n_kept} prompts of each kind; all replies are in the tables." if n_kept < n_most else ""
    )
    return result


def as_json(value: object) -> str:
    """JSON in the fewest characters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _prompts(views: Iterable[ReplyView]) -> dict[str, list[str]]:
    """The prompts of each split, in the order in which the tables have them."""
    prompts: dict[str, dict[str, None]] = {}
    for view in views:
        for (split, prompt), _ in view.rows.groupby(["split", "prompt"], sort=False):
            prompts.setdefault(str(split), {})[str(prompt)] = None
    return {split: list(texts) for split, texts in prompts.items()}


def _pack(views: Sequence[ReplyView], prompts: dict[str, list[str]], n_kept: int) -> dict[str, Any]:
    kept = {split: texts[:n_kept] for split, texts in prompts.items()}
    numbers: dict[str, int] = {}  # of texts
    outcomes = list(OUTCOME_COLOURS)
    return {
        "outcomes": outcomes,
        "colours": list(OUTCOME_COLOURS.values()),
        "prompts": kept,
        "views": [_packed_view(view, kept, numbers, outcomes) for view in views],
        "texts": list(numbers),
    }


def _packed_view(
    view: ReplyView, prompts: dict[str, list[str]], numbers: dict[str, int], outcomes: Sequence[str]
) -> dict[str, Any]:
    """A cell for each arm, seed, step and split: numbers of its replies, and a digit for each outcome."""
    places = {(split, text): i for split, texts in prompts.items() for i, text in enumerate(texts)}
    digits = {outcome: str(i) for i, outcome in enumerate(outcomes)}
    names = {column: list(dict.fromkeys(view.rows[column])) for column in ("arm", "seed", "step")}
    at = {column: {name: i for i, name in enumerate(values)} for column, values in names.items()}
    cells = []
    for (arm, seed, step, split), rows in view.rows.groupby(["arm", "seed", "step", "split"], sort=False):
        replies, judged = [-1] * len(prompts[str(split)]), [" "] * len(prompts[str(split)])
        for prompt, reply, outcome in zip(rows["prompt"], rows["reply"], rows["outcome"], strict=True):
            place = places.get((str(split), prompt))
            if place is not None:
                replies[place] = numbers.setdefault(reply, len(numbers))
                judged[place] = style_of(outcome, digits)
        cells.append([at["arm"][arm], at["seed"][seed], at["step"][step], split, replies, "".join(judged)])
    return {
        "heading": view.heading,
        "arms": [str(name) for name in names["arm"]],
        "seeds": [str(name) for name in names["seed"]],
        "steps": [str(name) for name in names["step"]],
        "cells": cells,
    }
