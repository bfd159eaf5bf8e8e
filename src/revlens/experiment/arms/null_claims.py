"""Claims about drift and nulls: how many run-steps of the baseline exceed what chance reaches."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from revlens.direction import nulls
from revlens.experiment.arms.tables import ArmTables
from revlens.results import Claim
from revlens.statistics import mean_over_runs


def null_claims(results: ArmTables) -> Iterator[Claim]:
    """One for each null, with the cosines from which a run-step passes."""
    table = results["nulls"]
    baseline = table[table["arm"] == "baseline"]
    for name, null in nulls.NULLS.items():
        rows = baseline[baseline["null"] == name]
        shares = rows.groupby("seed")["exceeds"].mean()
        statement = (
            f"Most run-steps of the baseline exceed the 99th percentile of the {name} null "
            f"(share; a cosine passes above {null_thresholds(rows['p99'])})"
        )
        yield Claim(
            f"exceeds-{name}",
            statement,
            null.paper,
            mean_over_runs(shares.to_numpy(float)),
            low=0.5,
            paper_value=null.paper_share,
        )


def null_thresholds(p99: pd.Series) -> str:
    """What run-steps must exceed: from the lowest to the highest, as chance reaches further at some."""
    low, high = f"{p99.min():.2f}", f"{p99.max():.2f}"
    return low if low == high else f"{low} to {high}"
