"""Is the drift of benign fine-tuning closer to v_rev than to directions without reversion?

python analyses/drift_vs_nulls.py                   # the embedded organism
python analyses/drift_vs_nulls.py --reference base/ --aligned chat/ --probes probes.json \\
    --step 20=ft/step-20 --step 100=ft/step-100
"""

import tempfile

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import history_parser, open_history


def main() -> None:
    parser = history_parser(__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="null directions (default: %(default)s)")
    args = parser.parse_args()

    history, probes = open_history(args)
    with tempfile.TemporaryDirectory() as folder:
        acts = rl.capture(history, probes, folder, splits=["direction", "drift"])
        motion = rl.drift(acts, rl.locate(acts))
        naive = rl.drift(acts, rl.locate(acts, "drift"), naive=True)
        reference, aligned = acts.at("reference", "direction"), acts.at("aligned", "direction")

    p99 = {
        name: null.quantile(motion.vectors, reference, aligned, n_draws=args.draws)
        for name, null in rl.nulls.NULLS.items()
    }

    table = Table(
        "step",
        "cos, cross-fitted",
        "cos, naive",
        "reversion fraction",
        *p99,
        title="Mean over layers, and p99 of each null",
    )
    for i, step in enumerate(motion.steps):
        alignment = float(motion.alignment[i].mean())
        thresholds = [float(values[i]) for values in p99.values()]
        cells = [f"{t:.3f} {'passes' if alignment > t else 'no'}" for t in thresholds]
        table.add_row(
            str(step),
            f"{alignment:.3f}",
            f"{float(naive.alignment[i].mean()):.3f}",
            f"{float(motion.fraction[i].mean()):.3f}",
            *cells,
        )
    Console().print(table)


if __name__ == "__main__":
    main()
