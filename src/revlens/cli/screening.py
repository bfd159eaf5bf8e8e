"""The verb that scores the rows of a task before anything is trained on them."""

from __future__ import annotations

import argparse

from datasets import Dataset, disable_progress_bars
from rich.console import Console

from revlens.activations import read_endpoints
from revlens.cli.choice import chosen_config
from revlens.cli.status import status
from revlens.data import check_no_leak
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.experiment import environment
from revlens.figures import write_screening
from revlens.results import config_json
from revlens.screening import COLUMNS, screen
from revlens.storage import listed_file, sole_writer, write_listed_json
from revlens.subject import Subject


def screen_rows(args: argparse.Namespace, console: Console) -> None:
    """Score the rows; leave a table, a page and what made them.

    Raises:
        ConfigError: if the history has given steps, so that nothing is fine-tuned; if no row is asked for;
            also see `revlens.screening.screen`.
    """
    disable_progress_bars()
    config = chosen_config(args)
    subject = config.subject
    if subject.benign is None:
        raise ConfigError(
            "The steps of this history are given, so there is nothing to screen for: name the data in [task] "
            "and say in [finetune] how it is to be trained on."
        )
    with sole_writer(args.out):
        with status(console, "locating v_rev"):
            history, probes = subject.start(args.seed), subject.material().probes()
            ends = read_endpoints(history, probes["direction"])
            v_rev = ReversionDirection.fit(*ends, split="direction")
        with status(console, "screening rows"):
            table = screen(
                subject.trainee(args.seed),
                _rows(subject, args.seed, args.rows),
                v_rev,
                probes,
                subject.benign,
                adamw=args.adamw,
                reply_tokens=args.reply_tokens,
                batch_size=subject.batch_size,
            )
        made = {
            "seed": args.seed,
            "columns": {name: what for name, what in COLUMNS.items() if name in table},
            "subject": config_json(subject),
            **environment(),
        }
        write_listed_json(args.out / "screening.json", made)
        with listed_file(args.out / "screening.parquet") as partial:
            table.to_parquet(partial, index=False)
        with listed_file(args.out / "screening.html") as partial:
            write_screening(partial, table, COLUMNS, subject.summary)
    places = f"table  {args.out / 'screening.parquet'}\npage   {args.out / 'screening.html'}"
    console.print(places, markup=False, highlight=False, soft_wrap=True)


def _rows(subject: Subject, seed: int, n: int | None) -> Dataset:
    """The first rows of a seed's task: as many as its fine-tune takes, if no number is given."""
    assert subject.benign is not None
    if n is not None and n < 1:
        raise ConfigError(f"--rows {n}: at least one row is needed.")
    material = subject.material()
    data = material.benign(n or subject.benign.steps * subject.benign.batch_size, seed)
    check_no_leak(material.probes(), data)
    return data
