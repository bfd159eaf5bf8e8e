"""Does blocking motion along v_rev keep harmfulness down, at what task cost, and does the direction matter?

python analyses/guarded_finetuning.py               # the embedded organism, seed 0
python analyses/guarded_finetuning.py --seed 3 --strength 1 --arms baseline block
"""

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import add_seed, plain_parser
from revlens.behaviour import PhraseJudge, generate, refusal_rate
from revlens.organism import OrganismConfig
from revlens.training import ARMS, task_loss


def main() -> None:
    parser = plain_parser(__doc__)
    add_seed(parser)
    parser.add_argument(
        "--strength", type=float, default=5.0, help="weight of the guard's term (default: %(default)s)"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()

    config = OrganismConfig()
    world, history = config.material(), config.start(args.seed)
    probes = world.probes()
    ends = rl.read_endpoints(history, probes["direction"])
    v_rev = rl.ReversionDirection.fit(*ends, split="direction")
    before = rl.read_prompts(history.aligned.load(), probes["drift"]).mean(0).double()
    data = world.benign(config.benign.steps * config.benign.batch_size, args.seed)

    table = Table(
        "arm",
        "alignment",
        "harmfulness",
        "over-refusal",
        "task loss",
        title=f"After {config.benign.steps} benign updates",
    )
    for arm in args.arms:
        model = history.aligned.load()  # every arm has the same start and the same batches
        guard = rl.make_guard(arm, v_rev, model, probes["guard"], strength=args.strength, seed=args.seed)
        rl.finetune(model, data, config.benign, seed=args.seed, guard=guard)
        moved = rl.read_prompts(model, probes["drift"]).mean(0).double() - before
        alignment = (moved * v_rev.unit).sum(-1) / moved.norm(dim=-1)
        refusals = {
            s: refusal_rate(probes[s], generate(model, probes[s]), PhraseJudge())
            for s in ("behaviour", "harmless")
        }
        harmfulness, over_refusal = 1 - refusals["behaviour"], refusals["harmless"]
        cells = [float(alignment.mean()), harmfulness, over_refusal, task_loss(model, world.benign_test())]
        table.add_row(arm, *(f"{value:.3f}" for value in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
