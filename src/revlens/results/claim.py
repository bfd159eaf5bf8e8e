"""Claims, and verdicts on them by one rule.

A claim says that a quantity lies in a range. It is *supported* if the quantity's 95 % interval over runs lies
wholly inside the range, *contradicted* if it lies wholly outside, and *undecided* otherwise; fewer than
`MIN_RUNS` runs decide nothing. Ranges are part of the code, and the report prints them. One kind is not a
number fixed beforehand but a share fixed beforehand: a control counts as without effect within
`NEGLIGIBLE_SHARE` of what block is measured to do.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from revlens.statistics import Estimate

Verdict = Literal["supported", "contradicted", "undecided", "too few runs"]

#: Resampling fewer runs than this says little about runs that were not seen.
MIN_RUNS = 5

#: Two arms count as about equal if they differ by less than this share of what block does to the baseline.
NEGLIGIBLE_SHARE = 0.25
#: Task perplexity counts as about unchanged within this factor.
PERPLEXITY_FACTOR = 1.05
#: More over-refusal than this is not selective.
OVER_REFUSAL = 0.02


@dataclass(frozen=True)
class Claim:
    """A claim with our estimate.

    Attributes:
        key: short name.
        statement: what is claimed, in words.
        paper: the paper's number, as printed there; empty if the claim is ours.
        estimate: our value, with interval over runs.
        low: lower end of the range that the claim asserts (None: unbounded).
        high: its upper end.
    """

    key: str
    statement: str
    paper: str
    estimate: Estimate
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> Verdict:
        if self.estimate.n < MIN_RUNS:
            return "too few runs"
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        if low < self.estimate.low and self.estimate.high < high:
            return "supported"
        if self.estimate.high <= low or self.estimate.low >= high:
            return "contradicted"
        return "undecided"

    @property
    def rule(self) -> str:
        """The asserted range in words."""
        if self.low is None:
            return f"below {self.high:g}"
        if self.high is None:
            return f"above {self.low:g}"
        return f"between {self.low:.3g} and {self.high:.3g}"


def to_records(claims: list[Claim]) -> list[dict[str, Any]]:
    """Claims as plain values, with rule and verdict spelt out."""
    return [asdict(claim) | {"rule": claim.rule, "verdict": claim.verdict} for claim in claims]
