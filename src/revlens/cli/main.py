"""`revlens`: reads the arguments, runs the verb, and explains errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from revlens.cli.arguments import parse
from revlens.errors import RevlensError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 on an error that revlens explains)."""
    args = parse(argv)
    try:
        return _run(args, Console())
    except RevlensError as error:
        notes = getattr(error, "__notes__", [])  # which task it was
        _complain(" ".join([f"{error}", *notes]))
    except OSError as error:  # disk full, no permission: not ours, but no reason for a traceback
        _complain(f"cannot read or write {error.filename}: {error.strerror}")
    return 2


def _run(args: argparse.Namespace, console: Console) -> int:
    # Imported here, so that `revlens --help` and mistyped flags answer at once.
    if args.verb == "verify":
        from revlens.cli.auditing import audit

        return audit(args.out, console)
    if args.verb in ("inspect", "runs"):
        from revlens.cli import looking

        looking.inspect(args, console) if args.verb == "inspect" else looking.runs(args.folder, console)
    elif args.verb == "screen":
        from revlens.cli.screening import screen_rows

        screen_rows(args, console)
    else:
        from revlens.cli.running import run

        run(args, console)
    return 0


def _complain(message: str) -> None:
    Console(stderr=True).print(f"revlens: {message}", markup=False, highlight=False, soft_wrap=True)


def entry_point() -> None:
    """The console script."""
    sys.exit(main())
