"""Which tokens does v_rev promote and demote, read through the final norm and the unembedding?

python analyses/vocabulary_readout.py                     # the embedded organism
python analyses/vocabulary_readout.py --reference base/ --aligned chat/ --probes probes.json \\
    --engaging Sure Here --refusal "I can't" Sorry
"""

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import fit_v_rev, history_parser, open_history, read_metric


def main() -> None:
    parser = history_parser(__doc__, openings=True)
    parser.add_argument("--top", type=int, default=8, help="tokens at each end (default: %(default)s)")
    args = parser.parse_args()

    history, probes = open_history(args)
    v_rev, _ = fit_v_rev(history, probes)
    model = history.aligned.load()
    readout = rl.vocabulary_readout(model, v_rev, read_metric(args, model.tokenizer), seed=args.seed)

    shown = {"promoted": readout.top(args.top), "demoted": readout.top(args.top, bottom=True)}
    table = Table(
        "layer", "engaging minus refusal", "random, 95 %", "p", *shown, title="v_rev through the unembedding"
    )
    for row, *tokens in zip(readout.to_dataframe().itertuples(), *shown.values(), strict=True):
        words = [
            " ".join(repr(model.tokenizer.decode([token])) for token in at_layer)
            for at_layer in (end.tolist() for end in tokens)
        ]
        table.add_row(
            str(row.layer),
            f"{row.score:.2f}",
            f"{row.null_low:.2f} to {row.null_high:.2f}",
            f"{row.p:.3f}",
            *words,
        )
    Console().print(table)


if __name__ == "__main__":
    main()
