"""Claims on a terminal: the headline claims in one screen, all of them where they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from revlens.results import Claim

_COLOURS = {"supported": "green", "contradicted": "red", "undecided": "yellow", "too few runs": "yellow"}


def print_claims(claims: Sequence[Claim], console: Console, *, every: bool = False) -> None:
    """Print ours beside the paper's with the verdict.

    Args:
        claims: assessed.
        console: where to.
        every: whether those that are no headline are printed too. All are where none is a headline.
    """
    headline = [claim for claim in claims if claim.headline]
    shown = list(claims) if every or not headline else headline
    table = Table.grid(padding=(0, 2))
    for claim in shown:
        verdict = f"[{_COLOURS[claim.verdict]}]{claim.verdict}[/]"
        table.add_row(verdict, escape(f"{claim.statement}\n{_numbers(claim)}"))
    console.print(table)
    counts = Counter(claim.verdict for claim in claims)
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    more = "" if len(shown) == len(claims) else f"; --all prints the other {len(claims) - len(shown)}"
    console.print(f"{len(claims)} claims: {verdicts}{more}.", highlight=False, markup=False, soft_wrap=True)


def _numbers(claim: Claim) -> str:
    """Ours, and the paper's as it is printed there."""
    inside = {None: "", True: " (in our interval)", False: " (not in our interval)"}[claim.holds_paper]
    return f"ours {claim.estimate}" + (f"; paper {claim.paper}{inside}" if claim.paper else "")
