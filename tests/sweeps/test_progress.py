from __future__ import annotations

import io

import pytest
from rich.console import Console

from revlens.sweeps import progress
from revlens.sweeps.progress import ProgressLines


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def lines(clock: Clock, written: list[str]) -> ProgressLines:
    lines = ProgressLines({"finetune": 100, "capture": 4}, written.append, clock)
    lines.begin()
    return lines


def test_a_log_has_a_line_at_once_and_one_every_half_minute(
    lines: ProgressLines, clock: Clock, written: list[str]
) -> None:
    for clock.now in range(1, 62):
        lines.advance("finetune", 1)
    assert written == [
        "0:00:00  finetune 0/100, capture 0/4",
        "0:00:30  finetune 30/100, capture 0/4; more than 0:01:10 left",
        "0:01:00  finetune 60/100, capture 0/4; more than 0:00:40 left",
    ]


def test_a_label_that_is_done_is_said_at_once(lines: ProgressLines, clock: Clock, written: list[str]) -> None:
    clock.now = 5.0
    lines.advance("capture", 1)
    clock.now = 20.0
    lines.advance("capture", 3)
    lines.end()
    assert written[1:] == [
        "0:00:20  capture done (4/4); time left not known yet",
        "0:00:20  finetune, capture: done",
    ]


def test_each_label_is_as_slow_to_come_as_it_was(
    lines: ProgressLines, clock: Clock, written: list[str]
) -> None:
    clock.now = 10.0
    lines.advance("finetune", 1)  # processes have started
    clock.now = 59.0
    lines.advance("finetune", 49)  # a second each
    clock.now = 159.0
    lines.advance("capture", 1)  # 100 seconds, of which 3 are to come
    assert written[-1] == "0:02:39  finetune 50/100, capture 1/4; about 0:05:50 left"


def test_the_start_of_processes_is_nobodys_time(
    lines: ProgressLines, clock: Clock, written: list[str]
) -> None:
    clock.now = 40.0
    lines.advance("finetune", 1)
    assert written[-1] == "0:00:40  finetune 1/100, capture 0/4; time left not known yet"


def test_a_tick_too_many_counts_no_further(lines: ProgressLines, clock: Clock, written: list[str]) -> None:
    lines.advance("capture", 4)
    clock.now = 31.0
    lines.advance("capture", 2)
    assert written[-1].startswith("0:00:31  finetune 0/100, capture 4/4")


def test_a_terminal_gets_bars_and_a_log_lines() -> None:
    for is_terminal in (True, False):
        said = io.StringIO()
        console = Console(file=said, force_terminal=is_terminal, width=80)
        with progress({"history": 2}, console) as on_tick:
            on_tick("history", 2)
        assert ("━" in said.getvalue()) == is_terminal
        assert ("history done (2/2)" in said.getvalue()) != is_terminal
