"""Work that is killed at random moments and started again ends with the files of uninterrupted work."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest
from breaking import (
    Child,
    Unbroken,
    capturing,
    commanded,
    contents,
    finetuning,
    is_running,
    unbroken,
    unbroken_run,
    wait_for_end,
)

from revlens.sweeps import Processes


class Kind(NamedTuple):
    """The kills of a kind of work.

    Attributes:
        few: kills in the ordinary tests; 0 where even one takes minutes, as every new process imports and
            works again. What `test_end_to_end` breaks on purpose stands for them there.
        many: kills in the slow tests.
        hit: stages, or kinds of processes, that the slow tests must hit.
    """

    few: int
    many: int
    hit: set[str]


KINDS = {
    "reproduce": Kind(0, 60, {"history", "finetune", "capture", "behaviour", "causal"}),
    "study": Kind(0, 24, {"history", "directions", "finetune"}),
    "capture": Kind(2, 30, {"reference", "aligned", "step-1"}),
    "finetune": Kind(2, 30, {"start", "updates"}),
    "sweep": Kind(0, 16, {"everything", "a worker", "all but workers"}),
}


@dataclass
class Killer:
    """Kills work at random moments, and starts it again.

    A blow hits a working process. It returns the process that works afterwards, or None if that has ended
    with success.

    Attributes:
        work: the uninterrupted work to compare with.
        moments: chooses the time and the victim.
        fell: kills, by victim and by the stage that the work was at.
    """

    work: Unbroken
    moments: random.Random
    fell: Counter[tuple[str, str]] = field(default_factory=Counter)

    def kill(self, n: int, blows: Iterator[Callable[[Child], Child | None]]) -> None:
        """Kill ``n`` times, with new work after each that ended; whatever ends leaves the same files."""
        folder = self.work.bench.folder
        while self.fell.total() < n:
            child: Child | None = self.work.bench.start()
            while child is not None:
                status = child.wait(self.moment() if self.fell.total() < n else 600)
                if status is None:
                    child = next(blows)(child)
                else:
                    assert status == 0, child.error()
                    child = None
            assert contents(folder) == self.work.contents
            shutil.rmtree(folder)

    def moment(self) -> float:
        return self.moments.uniform(0, self.work.seconds)

    def everything(self, child: Child) -> Child:
        """Kill the process and its workers, and give the same command again."""
        where = self.work.bench.spot.get()
        if child.kill() == -signal.SIGKILL:  # otherwise it had already ended
            self.fell["everything", where] += 1
        self.work.check_half_done()
        return self.work.bench.start()

    def a_worker(self, child: Child) -> Child | None:
        """Kill one of its workers: the sweep continues without help, and ends."""
        workers = [worker for worker in child.workers() if is_running(worker)]
        if not workers:
            return child
        where = self.work.bench.spot.get()
        self.moments.choice(workers).kill()
        self.fell["a worker", where] += 1
        assert child.wait() == 0, child.error()
        return None

    def all_but_workers(self, child: Child) -> Child | None:
        """Kill the process alone, and suspend its workers until its successor works.

        Resumed, they end without harm.
        """
        where, workers = (
            self.work.bench.spot.get(),
            [worker for worker in child.workers() if is_running(worker)],
        )
        try:
            for worker in workers:
                worker.suspend()
            if child.kill_alone() == -signal.SIGKILL:
                self.fell["all but workers" if workers else "everything", where] += 1
            self.work.check_half_done()
            successor = self.work.bench.start()
            status = successor.wait(self.moment())
        finally:
            for worker in workers:
                worker.resume()
        wait_for_end(workers)
        if status is None:
            status = successor.wait()
        if status == 0:
            return None
        # It met a lock of theirs, and did not wait.
        assert "Another revlens process" in successor.error()
        return self.work.bench.start()


@pytest.fixture
def killer(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Killer:
    base = tmp_path_factory.getbasetemp()
    match kind:
        case "capture":
            history, probes = request.getfixturevalue("history"), request.getfixturevalue("probes")
            work = unbroken(capturing(tmp_path / kind, history, probes))
        case "finetune":
            work = unbroken(finetuning(tmp_path / kind))
        case "sweep":  # the same work and files; workers need about as long to start as to work
            alone = unbroken_run(base, "reproduce")
            work = replace(
                alone,
                bench=commanded(alone.bench.folder, "reproduce", Processes(2)),
                seconds=2 * alone.seconds,
            )
        case _:
            work = unbroken_run(base, kind)
    return Killer(work, random.Random(kind))


@pytest.mark.parametrize("kind", [kind for kind, kills in KINDS.items() if kills.few])
def test_a_handful_of_kills_leaves_the_same_files(kind: str, killer: Killer) -> None:
    killer.kill(KINDS[kind].few, cycle([killer.everything]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_and_fifty_kills_leave_the_same_files(kind: str, killer: Killer) -> None:
    blows = [killer.everything, killer.a_worker, killer.everything, killer.all_but_workers]
    killer.kill(KINDS[kind].many, cycle(blows if kind == "sweep" else [killer.everything]))
    print(
        f"{kind}: {killer.fell.total()} kills survived: "
        + ", ".join(f"{whom} at {where}: {n}" for (whom, where), n in killer.fell.items())
    )
    assert KINDS[kind].hit <= {name for names in killer.fell for name in names}
