"""What do ablating and clamping v_rev do to the fine-tuned model, and do control directions do less?

python analyses/directional_ablation.py                   # the embedded organism
python analyses/directional_ablation.py --reference base/ --aligned chat/ --step 100=ft/step-100 \\
    --probes probes.json --engaging Sure Here --refusal "I can't" Sorry
"""

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import fit_v_rev, history_parser, open_history, read_metric
from revlens.causal import Action, site_label


def main() -> None:
    parser = history_parser(__doc__, openings=True)
    parser.add_argument(
        "--controls", type=int, default=20, help="control directions of each kind (default: %(default)s)"
    )
    args = parser.parse_args()

    history, probes = open_history(args)
    checkpoint = [*history][-1]
    v_rev, ends = fit_v_rev(history, probes)
    controls = {
        "random": rl.nulls.isotropic_directions(args.controls, *v_rev.unit.shape, seed=args.seed),
        "covariance": rl.nulls.covariance_directions(ends.aligned, args.controls, seed=args.seed),
    }
    model = checkpoint.load()
    metric = read_metric(args, model.tokenizer)
    anchor = ends.aligned.mean(0).double()
    actions = [Action("ablate"), Action("clamp")]
    found = rl.intervene(
        model, v_rev, actions, probes["drift"], metric, clamp_mean=anchor, controls=controls, progress=True
    )

    effect = found.effect()
    ranks = {kind: found.rank_p(kind) for kind in controls}
    title = (
        f"{checkpoint.name}: change of engaging minus refusal ({found.baseline.mean():.2f} nats without one)"
        ", and rank p among controls"
    )
    table = Table("action", "layers", "v_rev", *(f"p ({kind})" for kind in controls), title=title)
    for a, action in enumerate(actions):
        for s, site in enumerate(found.sites):
            table.add_row(
                action.name,
                site_label(site),
                f"{effect[0, s, a]:+.2f}",
                *(f"{p[s, a]:.3f}" for p in ranks.values()),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
