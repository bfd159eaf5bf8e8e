"""What is being done: a spinner on a terminal, a line in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def status(console: Console, text: str) -> Iterator[None]:
    """Show that something is being done."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        yield
