"""`revlens`: one verb for the whole experiment, and one for each of its stages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from revlens.errors import ConfigError, RevlensError

if TYPE_CHECKING:
    from revlens.experiment import ExperimentConfig

_VERBS = {
    "reproduce": "everything: all stages, results, figures and the report",
    "history": "train the reference and the aligned model of every seed, and locate v_rev",
    "finetune": "fine-tune every arm from the aligned model",
    "capture": "capture activations at every checkpoint",
    "behaviour": "generate and judge at every checkpoint",
    "causal": "patch between checkpoints, intervene along v_rev and read it out",
    "analyse": "tables, claims and provenance, from what the stages left on disk",
    "report": "figures and the HTML report, from the tables",
}
#: Options that choose the experiment; without any of them a folder's own one goes on.
_CHOICES = ("quick", "seeds", "steps", "manifest", "track", "data_dir", "large")
_COLOURS = {"supported": "green", "contradicted": "red", "undecided": "yellow", "too few runs": "yellow"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 on an error that revlens explains)."""
    args = _parser().parse_args(argv)
    console = Console()
    try:
        _run(args, console)
    except RevlensError as error:
        Console(stderr=True).print(f"revlens: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except OSError as error:  # disk full, no permission: not ours, but no reason for a traceback
        Console(stderr=True).print(
            f"revlens: cannot read or write {error.filename}: {error.strerror}", markup=False, highlight=False, soft_wrap=True
        )
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="revlens", description="Measure reversion under fine-tuning, on the embedded organism or on your own checkpoints."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, summary in _VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=f"{summary[0].upper()}{summary[1:]}. What is on disk is not computed again.")
        sub.add_argument("--out", type=Path, default=Path("revlens-out"), help="output folder (default: %(default)s)")
        if verb not in ("analyse", "report"):
            sub.add_argument("--seeds", type=int, help="number of runs, at least 2 (default: 5)")
            sub.add_argument("--steps", type=int, help="updates of the benign fine-tune (default: 100)")
            sub.add_argument("--quick", action="store_true", help="a smoke run on a smaller organism, in under a minute and a half")
            sub.add_argument("--manifest", type=Path, help="TOML or YAML file that describes an experiment on your own checkpoints")
            sub.add_argument(
                "--track", choices=("organism", "text"), help="which organism: made-up words, or real text (default: organism)"
            )
            sub.add_argument("--data-dir", type=Path, help="folder with the data of the text track, see docs/data.md")
            sub.add_argument("--large", action="store_true", help="the text track's model for a GPU, of about 60 million parameters")
    return parser


def _run(args: argparse.Namespace, console: Console) -> None:
    # Imported here, so that `revlens --help` and mistyped flags answer at once.
    from datasets import disable_progress_bars

    from revlens.experiment import STAGES, run
    from revlens.runs import OwnHistory

    disable_progress_bars()

    if args.verb in ("analyse", "report"):
        verbs: tuple[str, ...] = (args.verb,)
    else:
        stages = STAGES if args.verb == "reproduce" else (args.verb,)
        config = _config(args)
        if isinstance(config.subject, OwnHistory):
            console.print(config.subject.describe(), markup=False, highlight=False, soft_wrap=True)
        run(config, args.out, stages=stages, console=console)
        verbs = ("analyse", "report") if args.verb == "reproduce" else ()
    for verb in verbs:
        {"analyse": _analyse, "report": _report}[verb](args.out, console)


def _config(args: argparse.Namespace) -> ExperimentConfig:
    from revlens.experiment import ExperimentConfig, Layout, quick, read_manifest, text_experiment

    stored, chosen = Layout(args.out).config, [name for name in _CHOICES if getattr(args, name)]
    if stored.is_file() and not chosen:
        return ExperimentConfig.load(stored)
    if args.manifest:
        if len(chosen) > 1:
            raise ConfigError(
                f"--manifest says everything; --{' and --'.join(name for name in chosen if name != 'manifest')} cannot be added."
            )
        return read_manifest(args.manifest)
    if (args.track == "text") != (args.data_dir is not None) or (args.large and args.track != "text"):
        raise ConfigError("--data-dir, and --large, belong to the text track: revlens reproduce --track text --data-dir DIR.")
    config = quick() if args.quick else ExperimentConfig()
    if args.track == "text":
        config = text_experiment(args.data_dir, quick=args.quick, large=args.large)
    if args.seeds is not None:
        if args.seeds < 2:
            raise ConfigError(f"--seeds {args.seeds}: at least 2 runs are needed for an interval over runs.")
        config = replace(config, seeds=tuple(range(args.seeds)))
    if args.steps is not None:
        config = config.with_steps(args.steps)
    return config


def _analyse(out: Path, console: Console) -> None:
    from revlens.experiment import analyse_and_save

    with console.status("analysing"):
        _, claims = analyse_and_save(out)
    table = Table("claim", "ours [95 %]", "paper", "verdict", title="Claims")
    for claim in claims:
        verdict = f"[{_COLOURS[claim.verdict]}]{claim.verdict}[/]"
        table.add_row(claim.statement, str(claim.estimate).replace("[", r"\["), claim.paper, verdict)
    console.print(table)


def _report(out: Path, console: Console) -> None:
    from revlens.experiment import ExperimentConfig, Layout, Results, assess_all
    from revlens.figures import draw, drawable, write_report

    layout = Layout(out)
    config, results = ExperimentConfig.load(layout.config), Results.load(layout.results)
    provenance = json.loads((layout.results / "provenance.json").read_text())
    with console.status("drawing figures"):
        problem = draw({name: plot(results) for name, plot in drawable(results).items()}, layout.figures)
        write_report(layout.report, config, results, assess_all(results), provenance)
    if problem:
        console.print(problem, markup=False)
    console.print(f"results  {layout.results}\nfigures  {layout.figures}\nreport   {layout.report}", highlight=False, soft_wrap=True)


def entry_point() -> None:
    """The console script."""
    sys.exit(main())
