"""Claims, and verdicts on them by one rule.

A claim is read twice. *Does the sign hold?* The claim says that a quantity lies in a range. It is *supported*
if the quantity's 95 % interval over runs lies wholly inside the range, *contradicted* if it lies wholly
outside, and *undecided* otherwise; fewer than `MIN_RUNS` runs decide nothing. *Is the size the paper's?*
Where the paper prints a number, it lies in our interval or not. Ranges are part of the code, and the report
prints them. One kind is not a number fixed beforehand but a share fixed beforehand: a control counts as
without effect within `NEGLIGIBLE_SHARE` of what block is measured to do.

Many claims are read, each at its own 95 %: of twenty true ones, one is missed by chance on average. The
headline claims are few and named beforehand; the others are to be read together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
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
        paper: what the paper says, as printed there; empty if the claim is ours.
        estimate: our value, with interval over runs.
        low: lower end of the range that the claim asserts (None: unbounded).
        high: its upper end.
        paper_value: the paper's number in our units; None if it prints none for this quantity.
        headline: whether it is one of the few that a reader should read first.
    """

    key: str
    statement: str
    paper: str
    estimate: Estimate
    low: float | None = None
    high: float | None = None
    paper_value: float | None = None
    headline: bool = False

    @property
    def verdict(self) -> Verdict:
        """Whether the quantity lies in the asserted range."""
        if self.estimate.n < MIN_RUNS:
            return "too few runs"
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        if low < self.estimate.low and self.estimate.high < high:
            return "supported"
        if self.estimate.high <= low or self.estimate.low >= high:
            return "contradicted"
        return "undecided"

    @property
    def holds_paper(self) -> bool | None:
        """Whether the paper's number lies in our interval; None without one, or with too few runs."""
        if self.paper_value is None or self.estimate.n < MIN_RUNS:
            return None
        return self.estimate.low <= self.paper_value <= self.estimate.high

    @property
    def rule(self) -> str:
        """The asserted range in words."""
        if self.low is None:
            return f"below {self.high:g}"
        if self.high is None:
            return f"above {self.low:g}"
        return f"between {self.low:.3g} and {self.high:.3g}"


def to_records(claims: list[Claim]) -> list[dict[str, Any]]:
    """Claims as plain values, with rule and both readings spelt out."""
    return [
        asdict(claim) | {"rule": claim.rule, "verdict": claim.verdict, "holds_paper": claim.holds_paper}
        for claim in claims
    ]


def headline_first(claims: Iterable[Claim], keys: Collection[str]) -> list[Claim]:
    """The claims of these keys, marked as headlines, and then the others, each in their order."""
    marked = [replace(claim, headline=claim.key in keys) for claim in claims]
    return sorted(marked, key=lambda claim: not claim.headline)
