"""How does engaging minus refusal respond to a dose of v_rev, at each layer of the aligned model?

python analyses/dose_response.py                          # the embedded organism
python analyses/dose_response.py --reference base/ --aligned chat/ --probes probes.json \\
    --engaging Sure Here --refusal "I can't" Sorry
"""

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import fit_v_rev, history_parser, open_history, read_metric
from revlens.causal import Action, site_label


def main() -> None:
    parser = history_parser(__doc__, openings=True)
    parser.add_argument(
        "--doses",
        type=float,
        nargs="+",
        default=[-0.5, 0.25, 0.5, 1.0, 1.5],
        help="in gaps (default: %(default)s)",
    )
    parser.add_argument("--controls", type=int, default=20, help="random directions (default: %(default)s)")
    args = parser.parse_args()

    history, probes = open_history(args)
    v_rev, ends = fit_v_rev(history, probes)
    model = history.aligned.load()
    metric = read_metric(args, model.tokenizer)
    random = rl.nulls.isotropic_directions(args.controls, *v_rev.unit.shape, seed=args.seed)
    actions = [Action("add", dose) for dose in args.doses]
    anchor = ends.aligned.mean(0).double()
    found = rl.intervene(
        model,
        v_rev,
        actions,
        probes["drift"],
        metric,
        clamp_mean=anchor,
        controls={"random": random},
        progress=True,
    )

    level = found.baseline.mean() + found.effect()
    table = Table(
        "layers",
        *(f"{dose:+g}" for dose in args.doses),
        title=f"Engaging minus refusal, nats ({found.baseline.mean():.2f} without a dose)",
    )
    for s, site in enumerate(found.sites):
        cells = [
            f"{level[0, s, a]:.2f} ({level[1:, s, a].min():.2f} to {level[1:, s, a].max():.2f})"
            for a in range(len(actions))
        ]
        table.add_row(site_label(site), *cells)
    table.caption = "in brackets: the range of random directions of the same length"
    Console().print(table)


if __name__ == "__main__":
    main()
