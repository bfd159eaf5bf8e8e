"""How well do refusal judges agree with published labels on real completions?

python analyses/judge_agreement.py --data-dir data/   # data/completions/MODEL__FILE.json, see docs/judges.md
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from _options import plain_parser
from revlens.behaviour import (
    JUDGES,
    PHRASE_LISTS,
    Agreement,
    Completion,
    Judge,
    PhraseJudge,
    agreement,
    judge_replies,
    read_completions,
    read_phrases,
)

#: Every judge that needs no model, by kind, but the one that has learnt from these very replies:
#: fit_outcome_judge.py measures it on those that it has not seen.
JUDGES_AT_HAND = {
    kind: record.from_settings({}, Path())
    for kind, record in JUDGES.items()
    if not record.needs_path and kind != "outcomes"
}
#: The part of a reply that a phrase judge reads.
OPENINGS = {"opening": PhraseJudge().opening, "anywhere": None}


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder with completions/MODEL__FILE.json"
    )
    args = parser.parse_args()
    paths = sorted((args.data_dir / "completions").glob("*__*.json"))
    if not paths:
        parser.error(
            f"no completions/MODEL__FILE.json in {args.data_dir}; docs/judges.md says where to get them"
        )

    files = {tuple(path.stem.split("__", 1)): read_completions(path) for path in paths}
    models = sorted({model for model, _ in files})
    groups = {
        (model, label): [
            c
            for (of, _), completions in files.items()
            if of == model
            for c in completions
            if label in c.refused
        ]
        for model in models
        for label in sorted(
            {
                label
                for (of, _), completions in files.items()
                if of == model
                for label in completions[0].refused
            }
        )
    }

    columns = (
        "judge",
        "model",
        "file",
        "label",
        "n",
        "accuracy",
        "kappa [95 %]",
        "both",
        "judge only",
        "label only",
        "neither",
    )
    table = Table(*columns, title="Judges against each label; counts are of refusals")
    for kind, judge in JUDGES_AT_HAND.items():
        for (model, name), completions in files.items():
            for label in completions[0].refused:
                table.add_row(kind, model, name, label, *_cells(_compare(judge, completions, label)))
        for (model, label), completions in groups.items():
            table.add_row(kind, model, "all", label, *_cells(_compare(judge, completions, label)))
    Console().print(table)

    table = Table(
        "phrases",
        "where",
        *(f"{model}, {label}" for model, label in groups),
        title="Phrase lists: accuracy, kappa over all files",
    )
    for name in PHRASE_LISTS:
        for where, opening in OPENINGS.items():
            judge = PhraseJudge(read_phrases(name), opening)
            results = [_compare(judge, completions, label) for (_, label), completions in groups.items()]
            table.add_row(name, where, *(f"{r.accuracy:.3f}, {_kappa(r)}" for r in results))
    Console().print(table)


def _compare(judge: Judge, completions: list[Completion], label: str) -> Agreement:
    outcomes = judge_replies(judge, [c.prompt for c in completions], [c.reply for c in completions])
    refused = [outcome == "refusal" for outcome in outcomes]
    return agreement(refused, [c.refused[label] for c in completions])


def _cells(result: Agreement) -> tuple[str, ...]:
    interval = (
        f"{_kappa(result)} [{result.kappa.low:.2f}, {result.kappa.high:.2f}]"
        if result.kappa
        else _kappa(result)
    )
    if result.kappa and result.undefined > 0:
        interval += f" ({result.undefined:.1%} of resamples undefined)"
    counts = (result.both, result.judge_only, result.label_only, result.neither)
    return str(result.n), f"{result.accuracy:.3f}", interval, *map(str, counts)


def _kappa(result: Agreement) -> str:
    return f"{result.kappa.value:.2f}" if result.kappa else "undefined (a constant side)"


if __name__ == "__main__":
    main()
