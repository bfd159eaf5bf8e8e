"""What do several worlds say together, and does another instruction set say the same?

Pools the outputs of one experiment in several worlds, and reads every claim on all runs. With ``--other``,
the same under another instruction set: a verdict that differs is undecided, as rounding should not decide it.

python analyses/across_worlds.py world-0 world-1 --other avx2-0 avx2-1
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from _options import plain_parser
from revlens.experiment import assess, pool
from revlens.results import Claim


def claims_of(outs: list[Path]) -> dict[str, Claim]:
    return {claim.key: claim for claim in assess(*pool(outs))}


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("outs", type=Path, nargs="+", metavar="DIR", help="analysed outputs, one a world")
    parser.add_argument(
        "--other", type=Path, nargs="+", default=[], metavar="DIR", help="the same under another set"
    )
    args = parser.parse_args()

    claims, others = claims_of(args.outs), claims_of(args.other) if args.other else {}
    table = Table(
        "claim", "paper", "ours", *(["other set"] if others else []), "verdict", "paper's value in?"
    )
    for key, claim in claims.items():
        flips = key in others and others[key].verdict != claim.verdict
        verdict = f"undecided ({claim.verdict}, {others[key].verdict})" if flips else claim.verdict
        holds = {True: "yes", False: "no", None: ""}[claim.holds_paper]
        estimates = [str(claim.estimate), *([str(others[key].estimate)] if others else [])]
        table.add_row(
            claim.statement, claim.paper, *(text.replace("[", r"\[") for text in estimates), verdict, holds
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
