"""Verbs that run nothing: what a manifest would run, and what a folder has done and left."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from revlens.cli.status import status
from revlens.errors import ResultsError
from revlens.experiment import (
    PLANS,
    ExperimentConfig,
    default_backend,
    expected_cost,
    read_manifest,
    remaining,
)
from revlens.results import Layout

#: Of more names than this, a line has the first and the number of the others.
_NAMED = 6


def inspect(args: argparse.Namespace, console: Console) -> None:
    """Print what a manifest would run, and its cost, measured on its model."""
    config = read_manifest(args.manifest, study=args.study)
    plan, subject, fine_tunes = PLANS[config.plan.name], config.subject, config.fine_tunes()
    probes = subject.material().probes()
    labels = list(dict.fromkeys(fine_tune.label for fine_tune in fine_tunes))
    marks = sorted({mark for fine_tune in fine_tunes for mark in fine_tune.marks})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    workers = default_backend(config).n_workers or os.cpu_count()
    _say(console, subject.describe() or subject.summary)
    lines = {
        "command": f"revlens {plan.verb} --manifest {args.manifest}",
        "stages": ", ".join(stage.name for stage in plan.stages),
        "runs": f"{len(config.seeds)}, with {len(labels)} fine-tunes each: {_some(labels)}",
        "looked at": f"after update {', '.join(map(str, marks))}; replies of {config.reply_tokens} tokens",
        "prompts": ", ".join(f"{len(prompts)} {split}" for split, prompts in probes.splits.items()),
        "machine": f"{os.cpu_count()} cores, {device}; {workers} process(es) at a time",
    }
    for name, text in lines.items():
        _say(console, f"{name:<10} {text}")
    with status(console, "measuring an update and replies"):
        cost = expected_cost(config)
    _say(console, f"{'cost':<10} {cost}")


def runs(folder: Path, console: Console) -> None:
    """Print how far the experiment in a folder is, or those in the folders below it.

    Raises:
        ResultsError: if there is none.
    """
    folders = [folder] if Layout(folder).config.is_file() else sorted(_experiments_below(folder))
    if not folders:
        raise ResultsError(
            f"No experiment at {folder} or in a folder below it: start one with `revlens reproduce` or "
            f"`revlens study`, with --out {folder}."
        )
    for out in folders:
        _print_progress(out, console)


def _experiments_below(folder: Path) -> Iterable[Path]:
    below = folder.iterdir() if folder.is_dir() else ()
    return (path for path in below if Layout(path).config.is_file())


def _print_progress(out: Path, console: Console) -> None:
    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    verb, stages = PLANS[config.plan.name].verb, remaining(config, layout)
    _say(console, f"{out}: revlens {verb}, {len(config.seeds)} run(s). {config.subject.summary}")
    table = Table("stage", "done", "left", box=SIMPLE_HEAD, pad_edge=False)
    for stage in stages:
        table.add_row(stage.stage, f"{stage.n_done}/{stage.n_units}", _some(stage.left))
    after = {"analyse": layout.results / "claims.json", "report": layout.report}
    for name, path in after.items():
        table.add_row(name, "yes" if path.exists() else "no", "")
    console.print(table)
    left = any(stage.left for stage in stages) or not all(path.exists() for path in after.values())
    _say(
        console, f"`revlens {verb} --out {out}` does what is left." if left else f"report     {layout.report}"
    )


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return "; ".join([*names[:_NAMED], *more])


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
