"""Progress of a sweep: bars on a terminal, lines with the time left in a log."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from revlens.sweeps.backend import OnTick

#: Seconds between two lines of a log, at least.
_PAUSE = 30.0


@contextmanager
def progress(totals: Mapping[str, int], console: Console | None) -> Iterator[OnTick]:
    """Show how many of its ticks every label has had.

    What comes from a cache does not tick; at the end every label counts as done.

    Args:
        totals: by label, in the order of the display.
        console: where to; standard output if None.
    """
    console = console or Console()
    if console.is_terminal:
        with _bars(totals, console) as on_tick:
            yield on_tick
        return
    lines = ProgressLines(totals, lambda text: console.print(text, markup=False, highlight=False))
    lines.begin()
    yield lines.advance
    lines.end()


@contextmanager
def _bars(totals: Mapping[str, int], console: Console) -> Iterator[OnTick]:
    columns = TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as shown:
        bars = {label: shown.add_task(label, total=total) for label, total in totals.items()}
        yield lambda label, n: shown.advance(bars[label], n)
        for label, bar in bars.items():
            shown.update(bar, completed=totals[label])


@dataclass
class ProgressLines:
    """A line when a label is done, and in between one every half minute at most.

    The time left is what the ticks to come will take, if those of each label take as long as they did so far.
    The first tick of all includes the start of processes and tells nothing. While a label has not ticked
    since, its time is unknown, and the line says "more than".

    Attributes:
        totals: by label, in their order.
        write: takes a line.
        clock: seconds.
    """

    totals: Mapping[str, int]
    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _done: Counter[str] = field(default_factory=Counter, init=False)
    _timed: Counter[str] = field(default_factory=Counter, init=False)
    _spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float), init=False)
    _began: float = field(default=0.0, init=False)
    _written: float = field(default=0.0, init=False)
    _ticked: float | None = field(default=None, init=False)

    def begin(self) -> None:
        """Say what is to be done."""
        self._began = self._written = self.clock()
        self._write(self._counts())

    def advance(self, label: str, n: int) -> None:
        """Count ticks. The time since those before is theirs, of whatever label."""
        now = self.clock()
        if self._ticked is not None:
            self._spent[label] += now - self._ticked
            self._timed[label] += n
        self._ticked = now
        before, total = self._done[label], self.totals[label]
        self._done[label] += n
        if before < total <= self._done[label]:
            self._write(f"{label} done ({total}/{total}); {self._left()}")
        elif now - self._written >= _PAUSE:
            self._write(f"{self._counts()}; {self._left()}")

    def end(self) -> None:
        """Say that everything is done."""
        self._write(f"{', '.join(self.totals)}: done")

    def _counts(self) -> str:
        return ", ".join(
            f"{label} {min(self._done[label], total)}/{total}" for label, total in self.totals.items()
        )

    def _left(self) -> str:
        seconds, unknown = 0.0, False
        for label, total in self.totals.items():
            to_come = max(0, total - self._done[label])
            if self._timed[label]:
                seconds += to_come * self._spent[label] / self._timed[label]
            else:
                unknown = unknown or to_come > 0
        if unknown and not seconds:
            return "time left not known yet"
        return f"{'more than' if unknown else 'about'} {_duration(seconds)} left"

    def _write(self, text: str) -> None:
        self._written = self.clock()
        self.write(f"{_duration(self._written - self._began)}  {text}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
