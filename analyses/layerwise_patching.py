"""Which layers and positions restore refusal when patched from the aligned model, how much of it along v_rev?

python analyses/layerwise_patching.py   # the embedded organism: aligned into its last fine-tuned step
python analyses/layerwise_patching.py --reference base/ --aligned chat/ --step 100=ft/step-100 \\
    --probes probes.json --engaging Sure Here --refusal "I can't" Sorry --last 8
"""

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import fit_v_rev, history_parser, open_history, read_metric


def main() -> None:
    parser = history_parser(__doc__, openings=True)
    parser.add_argument(
        "--last",
        type=int,
        default=6,
        help="how many of the last prompt tokens to patch (default: %(default)s)",
    )
    args = parser.parse_args()

    history, probes = open_history(args)
    aligned, tuned = history.aligned.load(), [*history][-1].load()
    metric = read_metric(args, aligned.tokenizer)
    v_rev, _ = fit_v_rev(history, probes)

    sweep = rl.patch_between(aligned, tuned, probes["drift"], metric, last=args.last)
    table = Table(
        "layer",
        *map(str, sweep.positions),
        title=f"Share recovered: aligned → {[*history][-1].name}, by token from the end (* 5 % FDR)",
    )
    for layer, shares, marks in zip(sweep.layers, sweep.recovered(), sweep.significant(), strict=True):
        table.add_row(
            str(layer),
            *(f"{share:.2f}{'*' if mark else ''}" for share, mark in zip(shares, marks, strict=True)),
        )
    Console().print(table)

    table = Table(
        "layer",
        "full",
        "along v_rev",
        "all the rest",
        title="At the last prompt token, by part [95 % over prompts]",
    )
    parts = [rl.patch_between(aligned, tuned, probes["drift"], metric)]
    parts += [
        rl.patch_between(aligned, tuned, probes["drift"], metric, part=part, v_rev=v_rev)
        for part in ("along", "orthogonal")
    ]
    cells = [
        [f"{c.recovered:.2f} ({c.low:.2f} to {c.high:.2f})" for c in p.to_dataframe().itertuples()]
        for p in parts
    ]
    for layer, row in zip(sweep.layers, zip(*cells, strict=True), strict=True):
        table.add_row(str(layer), *row)
    Console().print(table)


if __name__ == "__main__":
    main()
