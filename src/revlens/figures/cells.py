"""Cells of the tables of a report."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from revlens.statistics import Estimate, mean_over_runs

#: Headings of the measures, in their order.
HEADINGS = {
    "refusal": "refusals",
    "mixed": "mixed",
    "deflection": "deflections",
    "compliance": "compliance",
    "degenerate": "degenerate",
    "harmfulness": "harmfulness",
    "substantive_harm": "of which substantive",
    "over_refusal": "over-refusal",
    "borderline_refusal": "over-refusal of prompts that sound unsafe",
    "task_loss": "task loss (nats)",
    "exact_match": "task exact match",
}


def cell(estimate: Estimate) -> str:
    """An estimate with its interval; small ones with a digit more."""
    digits = 4 if abs(estimate.value) < 0.05 and estimate.value else 3
    return estimate.to_text(digits)


def mean_cell(values: pd.Series) -> str:
    """The mean over runs with its interval."""
    return cell(mean_over_runs(values.to_numpy(float)))


def mean_cells(rows: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """`mean_cell` of each column."""
    return [mean_cell(rows[column]) for column in columns]


def measured(table: pd.DataFrame) -> dict[str, str]:
    """Column and heading of the measures that a table has."""
    return {column: heading for column, heading in HEADINGS.items() if column in table}


def strength_cell(strength: float) -> str:
    """The strength of a method; nothing where it has none."""
    return "" if np.isnan(strength) else f"{strength:g}"
