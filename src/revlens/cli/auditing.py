"""The verb `verify`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from revlens.audit import verify
from revlens.cli.status import status


def audit(out: Path, console: Console) -> int:
    """Print every difference; returns the exit status, 2 if there is any."""
    with status(console, "verifying"):
        verification = verify(out)
    for difference in verification.differences:
        console.print(str(difference), markup=False, highlight=False, soft_wrap=True)
    console.print(verification.summary(), markup=False, highlight=False, soft_wrap=True)
    return 2 if verification.differences else 0
