"""Where does v_rev lie, how long is the gap to the reference, and how well do the probes determine it?

python analyses/locate_v_rev.py                     # the embedded organism
python analyses/locate_v_rev.py --reference base/ --aligned chat/ --probes probes.json \\
    --save v_rev.safetensors
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import fit_v_rev, history_parser, open_history


def main() -> None:
    parser = history_parser(__doc__)
    parser.add_argument("--save", type=Path, help="write v_rev to this safetensors file")
    args = parser.parse_args()

    history, probes = open_history(args)
    v_rev, ends = fit_v_rev(history, probes)
    split_half = rl.reliability(*ends)

    table = Table(
        "layer",
        "gap",
        "split-half cosine",
        "reliability [95 % over prompts]",
        title=f"v_rev from {v_rev.n_prompts} prompts",
    )
    for i, layer in enumerate(v_rev.layers):
        interval = f"{split_half.full[i]:.3f} ({split_half.low[i]:.3f} to {split_half.high[i]:.3f})"
        table.add_row(str(layer), f"{v_rev.gap[i]:.2f}", f"{split_half.half[i]:.3f}", interval)
    Console().print(table)
    if args.save:
        v_rev.save(args.save)
        print(f"v_rev written to {args.save}")


if __name__ == "__main__":
    main()
