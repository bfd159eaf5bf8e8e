"""`revlens`: one verb for the whole experiment, and one for each of its stages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from revlens.errors import ConfigError, RevlensError

if TYPE_CHECKING:
    from revlens.experiment import Claim, ExperimentConfig, Layout
    from revlens.figures import Report
    from revlens.results import Tables
    from revlens.study import StudyConfig, StudyLayout

_VERBS = {
    "reproduce": "everything: all stages, results, figures and the report",
    "history": "train the reference and the aligned model of every seed, and locate v_rev",
    "finetune": "fine-tune every arm from the aligned model",
    "capture": "capture activations at every checkpoint",
    "behaviour": "generate and judge at every checkpoint",
    "causal": "patch between checkpoints, intervene along v_rev and read it out",
    "analyse": "tables, claims and provenance, from what the stages left on disk",
    "report": "figures and the HTML report, from the tables",
    "verify": "compute tables, claims and figures again from what is stored, and name every difference and every changed byte",
    "study": "compare guards: strengths, cost, routes, longer runs, early warning (hours on the whole organism)",
}
#: Options that choose the experiment; without any of them a folder's own one goes on.
_CHOICES = ("quick", "seeds", "steps", "manifest", "track", "data_dir", "large")
_COLOURS = {"supported": "green", "contradicted": "red", "undecided": "yellow", "too few runs": "yellow"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 on an error that revlens explains)."""
    args = _parser().parse_args(argv)
    console = Console()
    try:
        if args.verb == "verify":
            return _verify(args.out, console)
        _run(args, console)
    except RevlensError as error:
        notes = getattr(error, "__notes__", [])  # which run it was
        Console(stderr=True).print(
            " ".join([f"revlens: {error}", *notes]), markup=False, highlight=False, soft_wrap=True
        )
        return 2
    except OSError as error:  # disk full, no permission: not ours, but no reason for a traceback
        Console(stderr=True).print(
            f"revlens: cannot read or write {error.filename}: {error.strerror}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="revlens",
        description="Measure reversion under fine-tuning, on the embedded organism or on your own checkpoints.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, summary in _VERBS.items():
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. What is on disk is not computed again.",
        )
        sub.add_argument(
            "--out", type=Path, default=Path("revlens-out"), help="output folder (default: %(default)s)"
        )
        if verb not in ("analyse", "report", "verify"):
            sub.add_argument("--seeds", type=int, help="number of runs, at least 2 (default: 5)")
            sub.add_argument("--steps", type=int, help="updates of the benign fine-tune (default: 100)")
            sub.add_argument(
                "--quick",
                action="store_true",
                help="a smoke run on a smaller organism, in under a minute and a half",
            )
            sub.add_argument(
                "--manifest",
                type=Path,
                help="TOML or YAML file that describes an experiment on your own checkpoints",
            )
            sub.add_argument(
                "--track",
                choices=("organism", "text"),
                help="which organism: made-up words, or real text (default: organism)",
            )
            sub.add_argument(
                "--data-dir", type=Path, help="folder with the data of the text track, see docs/data.md"
            )
            sub.add_argument(
                "--large",
                action="store_true",
                help="the text track's model for a GPU, of about 60 million parameters",
            )
            sub.add_argument(
                "--workers",
                type=int,
                metavar="N",
                help="runs at a time on this machine (default: one for each core)",
            )
            sub.add_argument(
                "--ray",
                nargs="?",
                const="local",
                metavar="ADDRESS",
                help="send runs to the Ray cluster at this address, or to a Ray of this machine if none is given; see docs/scaling.md",
            )
            sub.add_argument(
                "--run-cpus",
                type=int,
                default=1,
                metavar="N",
                help="cores of each run on Ray (default: %(default)s)",
            )
            sub.add_argument(
                "--run-gpus",
                type=float,
                metavar="N",
                help="GPUs of each run on Ray, or a share of one (default: 0)",
            )
    return parser


def _run(args: argparse.Namespace, console: Console) -> None:
    # Imported here, so that `revlens --help` and mistyped flags answer at once.
    from datasets import disable_progress_bars

    from revlens.storage import sole_writer

    disable_progress_bars()

    with sole_writer(args.out):
        _write(args, console)


def _write(args: argparse.Namespace, console: Console) -> None:
    """The verbs that write; no other process may be writing in the same folder."""
    from revlens.experiment import STAGES, run
    from revlens.subject import UserHistory

    if args.verb == "study":
        _study(args, console)
        return
    if args.verb in ("analyse", "report"):
        verbs: tuple[str, ...] = (args.verb,)
    else:
        stages = STAGES if args.verb == "reproduce" else (args.verb,)
        config = _config(args)
        if isinstance(config.subject, UserHistory):
            console.print(config.subject.describe(), markup=False, highlight=False, soft_wrap=True)
        run(config, args.out, stages=stages, console=console, **_where(args, config))
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
        raise ConfigError(
            "--data-dir, and --large, belong to the text track: revlens reproduce --track text --data-dir DIR."
        )
    config = quick() if args.quick else ExperimentConfig()
    if args.track == "text":
        config = text_experiment(args.data_dir, quick=args.quick, large=args.large)
    if args.seeds is not None:
        if args.seeds < 2:
            raise ConfigError(f"--seeds {args.seeds}: at least 2 runs are needed for an interval over runs.")
        config = config.with_seeds(args.seeds)
    if args.steps is not None:
        config = config.with_steps(args.steps)
    return config


def _where(args: argparse.Namespace, config: ExperimentConfig) -> dict[str, Any]:
    """Where runs go, as `revlens.experiment.run` takes it."""
    from revlens.experiment import default_backend
    from revlens.subject import cache_root
    from revlens.sweeps import RayCluster, Resources

    if args.ray is None:
        if args.run_gpus is not None or args.run_cpus != 1:
            raise ConfigError("--run-cpus and --run-gpus are for runs on Ray; add --ray.")
        return {"on": default_backend(config, args.workers)}
    if args.run_gpus is None and not config.subject.parallel:
        raise ConfigError(
            "The model may be large: say with --run-gpus how many GPUs a run takes on Ray (0 for none)."
        )
    cache = cache_root().resolve()
    address = None if args.ray == "local" else args.ray
    cluster = RayCluster(
        address, args.workers, shared=(args.out, cache), environment={"REVLENS_CACHE": str(cache)}
    )
    return {"on": cluster, "resources": Resources(n_cpus=float(args.run_cpus), n_gpus=args.run_gpus or 0.0)}


def _study(args: argparse.Namespace, console: Console) -> None:
    from revlens.figures import REPORTS
    from revlens.study import StudyConfig, StudyLayout, load_config, made_by, run_study, tabulate_and_save

    experiment, layout = _config(args), StudyLayout(args.out)
    if layout.config.is_file() and not args.quick:
        config = load_config(layout)
    else:
        config = StudyConfig.quick(experiment) if args.quick else StudyConfig.of(experiment)
    run_study(config, args.out, console=console, **_where(args, experiment))
    with console.status("tabulating and drawing"):
        config, tables, claims = tabulate_and_save(args.out)
        problem = _draw(REPORTS["guards"], layout, config, tables, claims, made_by(config))
    _print_claims(claims, console)
    if problem:
        console.print(problem, markup=False)
    _print_places(layout, console)


def _analyse(out: Path, console: Console) -> None:
    from revlens.experiment import analyse_and_save

    with console.status("analysing"):
        _, claims = analyse_and_save(out)
    _print_claims(claims, console)


def _print_claims(claims: Sequence[Claim], console: Console) -> None:
    table = Table("claim", "ours [95 %]", "paper", "verdict", title="Claims")
    for claim in claims:
        verdict = f"[{_COLOURS[claim.verdict]}]{claim.verdict}[/]"
        table.add_row(claim.statement, str(claim.estimate).replace("[", r"\["), claim.paper, verdict)
    console.print(table)


def _report(out: Path, console: Console) -> None:
    from revlens.experiment import ExperimentConfig, Layout, Results, assess_all
    from revlens.figures import REPORTS

    layout = Layout(out)
    config, results = ExperimentConfig.load(layout.config), Results.load(layout.results)
    provenance = json.loads((layout.results / "provenance.json").read_text())
    with console.status("drawing figures"):
        problem = _draw(REPORTS["arms"], layout, config, results, assess_all(results), provenance)
    if problem:
        console.print(problem, markup=False)
    _print_places(layout, console)


def _draw(
    report: Report[Any, Any],
    layout: Layout | StudyLayout,
    config: ExperimentConfig | StudyConfig,
    tables: Tables,
    claims: Sequence[Claim],
    provenance: dict[str, Any],
) -> str | None:
    """Draw the figures and write the report; returns why there are no static images, if there are none."""
    from revlens.figures import draw, draw_all, write_report
    from revlens.storage import listed_file

    problem = draw(draw_all(report, tables), layout.figures)
    with listed_file(layout.report) as partial:
        write_report(partial, report, config, tables, claims, provenance)
    return problem


def _verify(out: Path, console: Console) -> int:
    from revlens.audit import verify
    from revlens.experiment import Layout
    from revlens.study import StudyLayout

    if StudyLayout(out).root.is_dir() and not Layout(out).results.is_dir():
        note = f"{out} holds no results of its experiment: only its study is compared."
        console.print(note, markup=False, soft_wrap=True)
    with console.status("verifying"):
        verification = verify(out)
    for difference in verification.differences:
        console.print(str(difference), markup=False, highlight=False, soft_wrap=True)
    console.print(verification.summary(), markup=False, highlight=False, soft_wrap=True)
    return 2 if verification.differences else 0


def _print_places(layout: Layout | StudyLayout, console: Console) -> None:
    console.print(
        f"results  {layout.results}\nfigures  {layout.figures}\nreport   {layout.report}",
        highlight=False,
        soft_wrap=True,
    )


def entry_point() -> None:
    """The console script."""
    sys.exit(main())
