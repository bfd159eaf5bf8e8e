"""The page of a screening: the rows at both ends, on one page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from revlens.figures.page import template
from revlens.storage import write_text

#: The scores by which a page ranks, the first that the table has.
_RANKS = ("adamw", "sgd")
#: Rows at each end.
N_SHOWN = 25


def write_screening(path: Path, table: pd.DataFrame, columns: Mapping[str, str], subject: str) -> None:
    """Write the page; every text of the data is escaped.

    Args:
        path: where to.
        table: as `revlens.screen` returns it.
        columns: what the scores are, by name.
        subject: whose rows they are, in a sentence or two.
    """
    score = next(name for name in _RANKS if name in table)
    scores = [name for name in columns if name in table]
    ranked = table.sort_values(score, ascending=False, kind="stable")
    n = min(N_SHOWN, len(table) // 2 or 1)
    ends = {
        f"The {n} rows that would take it back most": ranked.head(n),
        f"The {n} rows that would take it back least, or forth": ranked.tail(n).iloc[::-1],
    }
    page = template("screening.html.j2").render(
        score=score,
        subject=subject,
        n_rows=len(table),
        share=f"{(table[score] > 0).mean():.0%}",
        total=f"{table[score].mean():.2g}",
        columns=[(name, columns[name]) for name in scores],
        ranks=[
            (name, f"{value:.2f}")
            for name, value in table[scores].corr("spearman")[score].items()
            if name != score
        ],
        scores=scores,
        ends={
            heading: [
                (row["row"], [f"{row[name]:.3g}" for name in scores], row["prompt"], row["answer"])
                for _, row in rows.iterrows()
            ]
            for heading, rows in ends.items()
        },
    )
    write_text(path, page)
