"""Verbs that run stages, and verbs on what they left."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from datasets import disable_progress_bars
from rich.console import Console
from rich.table import Table

from revlens import experiment
from revlens.behaviour import make_judge
from revlens.cli.arguments import AFTERWARDS, WHOLE
from revlens.cli.choice import chosen_config, where
from revlens.cli.claims import print_claims
from revlens.cli.status import status
from revlens.results import Layout
from revlens.storage import listed_file, sole_writer


def run(args: argparse.Namespace, console: Console) -> None:
    """Run a verb that writes into an output folder."""
    disable_progress_bars()
    with sole_writer(args.out):
        if args.verb not in AFTERWARDS:
            _run_stages(args, console)
        if args.verb == "analyse" or args.verb in WHOLE:
            with status(console, "analysing"):
                _, claims = experiment.analyse_and_save(args.out)
            print_claims(claims, console, every=args.all)
        if args.verb == "report" or args.verb in WHOLE:
            _report(args.out, console)
        if args.verb == "rejudge":
            _rejudge(args, console)


def _run_stages(args: argparse.Namespace, console: Console) -> None:
    config = chosen_config(args)
    if checkpoints := config.subject.describe():
        console.print(checkpoints, markup=False, highlight=False, soft_wrap=True)
        if not Layout(args.out).config.is_file():
            with status(console, "measuring an update and replies"):
                cost = experiment.expected_cost(config)
            console.print(str(cost), markup=False, highlight=False, soft_wrap=True)
    stages = None if args.verb in WHOLE else (args.verb,)
    experiment.run_experiment(config, args.out, stages=stages, console=console, **where(args, config))
    if missed := experiment.note_of_stage(config, Layout(args.out)):
        console.print(missed, markup=False, highlight=False, soft_wrap=True)


def _rejudge(args: argparse.Namespace, console: Console) -> None:
    path = Path(args.judge)
    settings = experiment.read_judge(path) if path.suffix == ".toml" else {"kind": args.judge}
    name = path.stem
    with status(console, "judging"):
        result = experiment.rejudge(args.out, make_judge(settings, path.parent), name)
    table = Table("stored outcome", *map(str, result.counts.columns), title=f"Replies by the judge {name}")
    for outcome, row in result.counts.iterrows():
        table.add_row(str(outcome), *map(str, row))
    console.print(table)
    kappa = result.refusals.kappa
    agreed = f"{result.refusals.accuracy:.1%} of replies" + (f", kappa {kappa}" if kappa else "")
    console.print(f"The judges agree on what is a refusal for {agreed}.", markup=False, highlight=False)
    print_claims(result.claims, console, every=args.all)


def _report(out: Path, console: Console) -> None:
    from revlens.figures import REPORTS, draw, draw_all, write_report

    layout = Layout(out)
    config = experiment.ExperimentConfig.load(layout.config)
    report, tables = REPORTS[config.plan.name], experiment.load_tables(config, layout)
    provenance = json.loads((layout.results / "provenance.json").read_text())
    with status(console, "drawing figures"):
        figures = draw_all(report, tables)
        problem = draw(figures, layout.figures)
        with listed_file(layout.report) as partial:
            claims = experiment.assess(config, tables)
            write_report(partial, report, config, tables, claims, provenance, figures)
    if problem:
        console.print(problem, markup=False)
    places = f"results  {layout.results}\nfigures  {layout.figures}\nreport   {layout.report}"
    console.print(places, highlight=False, soft_wrap=True)
