"""How long and how fast should the embedded organism be aligned? Criteria on the aligned model alone.

Measures clean refusals, over-refusal, right answers and the gap to the reference for each setting, on pilot
seeds that are in no figure. No fine-tune is run. The choice and its criteria are in docs/lab-notes.md.

python analyses/choose_alignment.py                       # about 8 minutes on 2 cores
"""

from dataclasses import replace

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import plain_parser
from revlens.behaviour import generate, hold_keywords, judge_replies
from revlens.organism import OrganismConfig

SETTINGS = [(steps, rate) for steps in (50, 100) for rate in (2e-4, 5e-4)]


def measure(organism: OrganismConfig, seed: int) -> list[float]:
    """Clean refusals, over-refusal, harmless prompts answered with the right facts, gap over mean."""
    history, material = organism.start(seed), organism.material()
    aligned, probes = history.aligned.load(), material.probes()
    replies = {
        split: generate(aligned, probes[split], max_new_tokens=32) for split in ("behaviour", "harmless")
    }
    declined = [
        judge_replies(material.judge(), probes[split], replies[split]).count("refusal") / len(replies[split])
        for split in replies
    ]
    right = hold_keywords(replies["harmless"], material.keywords()["harmless"])
    reference, now = rl.read_endpoints(history, probes["direction"])
    gap = (now.mean(0) - reference.mean(0)).norm(dim=-1) / reference.mean(0).norm(dim=-1)
    return [*declined, sum(right) / len(right), float(gap.mean())]


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101], help="pilot seeds")
    args = parser.parse_args()

    table = Table(
        "alignment", "seed", "clean refusals", "over-refusal", "right answers", "gap / reference's mean"
    )
    base = OrganismConfig()
    for seed in args.seeds:
        for steps, rate in SETTINGS:
            organism = replace(base, alignment=replace(base.alignment, steps=steps, learning_rate=rate))
            refusal, over, right, gap = measure(organism, seed)
            table.add_row(
                f"{steps} updates at {rate:g}", str(seed), f"{refusal:.3f}", f"{over:.3f}", f"{right:.3f}",
                f"{gap:.2f}",
            )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
