"""`revlens`: one verb for each kind of experiment, and one for each of its stages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from revlens.errors import ConfigError, RevlensError
from revlens.experiment import PLANS

if TYPE_CHECKING:
    from revlens.experiment import ExperimentConfig
    from revlens.results import Claim, Layout

#: Verbs that run a whole plan, and its name in a configuration.
_WHOLE = {plan.verb: name for name, plan in PLANS.items()}
#: Verbs that run one stage, of whichever plan the folder's experiment has.
_STAGES = {stage.name: stage.summary for plan in [*PLANS.values()][::-1] for stage in plan.stages}
#: Verbs on what the stages left.
_AFTERWARDS = {
    "analyse": "tables, claims and provenance, from what the stages left on disk",
    "report": "figures and the HTML report, from the tables",
    "rejudge": "apply another judge to the replies that are kept: results in DIR/rejudged/JUDGE",
    "verify": "compute tables, claims and figures again from what is stored, and name every difference",
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
        notes = getattr(error, "__notes__", [])  # which task it was
        _complain(" ".join([f"{error}", *notes]))
        return 2
    except OSError as error:  # disk full, no permission: not ours, but no reason for a traceback
        _complain(f"cannot read or write {error.filename}: {error.strerror}")
        return 2
    return 0


def _complain(message: str) -> None:
    Console(stderr=True).print(f"revlens: {message}", markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="revlens",
        description="Measure reversion under fine-tuning, on a small organism or on your own checkpoints.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    summaries = {plan.verb: plan.summary for plan in PLANS.values()} | _STAGES | _AFTERWARDS
    for verb, summary in summaries.items():
        text = f"{summary[0].upper()}{summary[1:]}. What is on disk is not computed again."
        sub = verbs.add_parser(verb, help=summary, description=text)
        out = Path("revlens-study" if verb == "study" else "revlens-out")
        sub.add_argument("--out", type=Path, default=out, help="output folder (default: %(default)s)")
        if verb == "rejudge":
            _add_judge(sub)
        if verb not in _AFTERWARDS:
            _add_choices(sub)
            _add_places(sub)
    return parser


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge",
        required=True,
        help="a judge that needs no model (outcomes or phrases), or a TOML file with a [judge] table, "
        "see docs/judges.md",
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """What is run: see `_CHOICES`."""
    parser.add_argument("--seeds", type=int, help="number of runs, at least 2 (default: 5)")
    parser.add_argument("--steps", type=int, help="updates of the benign fine-tune (default: 100)")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run on a smaller organism, in a few minutes"
    )
    parser.add_argument(
        "--manifest", type=Path, help="TOML file that describes an experiment on your own checkpoints"
    )
    parser.add_argument(
        "--track",
        metavar="NAME",
        help="which organism: organism (made-up words, the default), or text (real text, with --data-dir)",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder with the data of the text track, see docs/data.md"
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="the text track's model for a GPU, of about 60 million parameters",
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Where it is run."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="tasks at a time on this machine (default: one for each core)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="send tasks to the Ray cluster at this address, or to one on this machine; see docs/scaling.md",
    )
    parser.add_argument(
        "--run-cpus",
        type=int,
        default=1,
        metavar="N",
        help="cores of each task on Ray (default: %(default)s)",
    )
    parser.add_argument(
        "--run-gpus", type=float, metavar="N", help="GPUs of each task on Ray, or a share of one (default: 0)"
    )


def _run(args: argparse.Namespace, console: Console) -> None:
    # Imported here, so that `revlens --help` and mistyped flags answer at once.
    from datasets import disable_progress_bars

    from revlens.storage import sole_writer

    disable_progress_bars()

    with sole_writer(args.out):
        if args.verb not in _AFTERWARDS:
            _run_stages(args, console)
        if args.verb == "analyse" or args.verb in _WHOLE:
            _analyse(args.out, console)
        if args.verb == "report" or args.verb in _WHOLE:
            _report(args.out, console)
        if args.verb == "rejudge":
            _rejudge(args, console)


def _run_stages(args: argparse.Namespace, console: Console) -> None:
    from revlens.experiment import expected_cost, run_experiment
    from revlens.results import Layout

    config = _config(args)
    if checkpoints := config.subject.describe():
        console.print(checkpoints, markup=False, highlight=False, soft_wrap=True)
        if not Layout(args.out).config.is_file():
            with console.status("measuring an update and replies"):
                cost = expected_cost(config)
            console.print(str(cost), markup=False, highlight=False, soft_wrap=True)
    stages = None if args.verb in _WHOLE else (args.verb,)
    run_experiment(config, args.out, stages=stages, console=console, **_where(args, config))


def _config(args: argparse.Namespace) -> ExperimentConfig:
    """The folder's own experiment, or the one that the options choose."""
    from revlens.experiment import ExperimentConfig, Guards, organism_experiment, read_manifest
    from revlens.results import Layout

    stored, chosen = Layout(args.out).config, [name for name in _CHOICES if getattr(args, name)]
    if stored.is_file() and not chosen:
        return _of_plan(ExperimentConfig.load(stored), args)
    study = args.verb == "study"
    if args.manifest:
        if len(chosen) > 1:
            others = " and --".join(name for name in chosen if name != "manifest")
            raise ConfigError(f"--manifest says everything; --{others} cannot be added.")
        date = ExperimentConfig.load(stored).template_date if stored.is_file() else None
        return read_manifest(args.manifest, study=study, template_date=date)
    if args.quick and args.large:
        raise ConfigError("A smoke run is on a small model: leave out --quick or --large.")
    size: Literal["default", "quick", "large"] = (
        "quick" if args.quick else "large" if args.large else "default"
    )
    config = organism_experiment(args.track or "organism", size, args.data_dir)
    if args.seeds is not None:
        if args.seeds < 2:
            raise ConfigError(f"--seeds {args.seeds}: at least 2 runs are needed for an interval over runs.")
        config = config.with_seeds(args.seeds)
    if args.steps is not None:
        config = config.with_steps(args.steps)
    return config.with_plan(Guards.quick(config) if args.quick else Guards.of(config)) if study else config


def _of_plan(config: ExperimentConfig, args: argparse.Namespace) -> ExperimentConfig:
    if args.verb in _WHOLE and _WHOLE[args.verb] != config.plan.name:
        verb = PLANS[config.plan.name].verb
        raise ConfigError(
            f"{args.out} holds an experiment of `revlens {verb}`; choose another --out for `revlens "
            f"{args.verb}`."
        )
    return config


def _where(args: argparse.Namespace, config: ExperimentConfig) -> dict[str, Any]:
    """Where tasks go, as `revlens.experiment.run_experiment` takes it."""
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
    return {
        "on": cluster,
        "resources": Resources(n_cpus=float(args.run_cpus), n_gpus=args.run_gpus or 0.0),
    }


def _analyse(out: Path, console: Console) -> None:
    from revlens.experiment import analyse_and_save

    with console.status("analysing"):
        _, claims = analyse_and_save(out)
    _print_claims(claims, console)


def _print_claims(claims: Sequence[Claim], console: Console) -> None:
    table = Table("claim", "ours [95 %]", "paper", "verdict", title="Claims")
    for claim in claims:
        same = {None: "", True: ", holds the paper's number", False: ", not the paper's size"}[
            claim.holds_paper
        ]
        verdict = f"[{_COLOURS[claim.verdict]}]{claim.verdict}[/]{same}"
        table.add_row(claim.statement, str(claim.estimate).replace("[", r"\["), claim.paper, verdict)
    console.print(table)


def _rejudge(args: argparse.Namespace, console: Console) -> None:
    from revlens.behaviour import make_judge
    from revlens.experiment import read_judge, rejudge

    path = Path(args.judge)
    settings = read_judge(path) if path.suffix == ".toml" else {"kind": args.judge}
    name = path.stem
    with console.status("judging"):
        result = rejudge(args.out, make_judge(settings, path.parent), name)
    table = Table("stored outcome", *map(str, result.counts.columns), title=f"Replies by the judge {name}")
    for outcome, row in result.counts.iterrows():
        table.add_row(str(outcome), *map(str, row))
    console.print(table)
    kappa = result.refusals.kappa
    agreed = f"{result.refusals.accuracy:.1%} of replies" + (f", kappa {kappa}" if kappa else "")
    console.print(f"The judges agree on what is a refusal for {agreed}.", markup=False, highlight=False)
    _print_claims(result.claims, console)


def _report(out: Path, console: Console) -> None:
    from revlens.experiment import ExperimentConfig, assess, load_tables
    from revlens.figures import REPORTS, draw, draw_all, write_report
    from revlens.results import Layout
    from revlens.storage import listed_file

    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    report, tables = REPORTS[config.plan.name], load_tables(config, layout)
    provenance = json.loads((layout.results / "provenance.json").read_text())
    with console.status("drawing figures"):
        problem = draw(draw_all(report, tables), layout.figures)
        with listed_file(layout.report) as partial:
            write_report(partial, report, config, tables, assess(config, tables), provenance)
    if problem:
        console.print(problem, markup=False)
    _print_places(layout, console)


def _verify(out: Path, console: Console) -> int:
    from revlens.audit import verify

    with console.status("verifying"):
        verification = verify(out)
    for difference in verification.differences:
        console.print(str(difference), markup=False, highlight=False, soft_wrap=True)
    console.print(verification.summary(), markup=False, highlight=False, soft_wrap=True)
    return 2 if verification.differences else 0


def _print_places(layout: Layout, console: Console) -> None:
    places = f"results  {layout.results}\nfigures  {layout.figures}\nreport   {layout.report}"
    console.print(places, highlight=False, soft_wrap=True)


def entry_point() -> None:
    """The console script."""
    sys.exit(main())
