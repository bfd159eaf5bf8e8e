"""Running tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from revlens.errors import ConfigError
from revlens.sweeps.backend import OnTick, Outcome
from revlens.sweeps.task import Task
from revlens.sweeps.worker import portable, prepare_process

_PATIENCE = 60.0  # seconds in which an ended worker removes its scratch files


@dataclass(frozen=True)
class Processes:
    """Worker processes, spawned and not forked. One that dies is replaced without disturbing the others.

    Attributes:
        n_workers: how many at most; as many as there are cores if None. No more are started than there are
            tasks to run at once.
        one_thread: whether a worker has one thread, so that numbers do not depend on how many cores there
            are.

    Raises:
        ConfigError: if ``n_workers`` is below 1.
    """

    n_workers: int | None = None
    one_thread: bool = True

    def __post_init__(self) -> None:
        if self.n_workers is not None and self.n_workers < 1:
            raise ConfigError(f"{self.n_workers} workers cannot run anything; give at least 1.")

    @contextmanager
    def open(self, n_tasks: int, on_tick: OnTick) -> Iterator[_Pool]:
        pool = _Pool(min(self.n_workers or os.cpu_count() or 1, n_tasks), self.one_thread, on_tick)
        with _terminated_by_exit():
            try:
                yield pool
            finally:
                pool.close()


@dataclass(eq=False)
class _Worker:
    """A process, this end of its pipe, and the task it has."""

    process: BaseProcess
    connection: Connection
    task: Task | None = None

    @classmethod
    def start(cls, one_thread: bool) -> _Worker:
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, one_thread))
        process.start()
        theirs.close()  # so that the pipe ends when the process does
        return cls(process, ours)

    def end(self) -> None:
        self.process.terminate()
        self.process.join(_PATIENCE)
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass
class _Pool:
    n_workers: int
    one_thread: bool
    on_tick: OnTick
    workers: list[_Worker] = field(default_factory=list)
    waiting: deque[Task] = field(default_factory=deque)

    def submit(self, task: Task) -> None:
        self.waiting.append(task)

    def finished(self) -> list[Outcome]:
        self._hand_out()
        # One pipe a worker: a death belongs to one task, and a process killed while it writes blocks no
        # other.
        busy = {worker.connection: worker for worker in self.workers if worker.task is not None}
        outcomes: list[Outcome] = []
        ticks: Counter[str] = Counter()
        for connection in wait(list(busy), timeout=0.2):
            assert isinstance(connection, Connection)
            outcomes += self._read(busy[connection], ticks)
        for label, n in ticks.items():
            self.on_tick(label, n)
        return outcomes

    def close(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.end()

    def _hand_out(self) -> None:
        while self.waiting:
            idle = [worker for worker in self.workers if worker.task is None]
            if not idle and len(self.workers) == self.n_workers:
                return
            if not idle:
                idle = [_Worker.start(self.one_thread)]
                self.workers += idle
            try:
                idle[0].connection.send(self.waiting[0])
            except OSError:  # it died between two tasks
                self._discard(idle[0])
                continue
            except Exception as error:
                error.add_note(
                    f"Task {self.waiting[0].name!r} cannot be sent to another process: "
                    "its function and arguments must be picklable."
                )
                raise
            idle[0].task = self.waiting.popleft()

    def _read(self, worker: _Worker, ticks: Counter[str]) -> list[Outcome]:
        """What a worker has sent: ticks, which are counted, and at most one outcome."""
        assert worker.task is not None
        name = worker.task.name
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                if not isinstance(message, str):
                    worker.task = None
                    return [Outcome(name, *message)]
                ticks[message] += 1
        except (EOFError, OSError):
            self._discard(worker)
            code = worker.process.exitcode
            how = (
                f"killed by {signal.Signals(-code).name}"
                if code is not None and code < 0
                else f"exit status {code}"
            )
            return [Outcome(name, death=how)]
        return []

    def _discard(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.process.join(_PATIENCE)
        worker.end()


def _end_with_caller() -> None:
    """Exit with a killed caller, which cannot end its workers: they must not write beside its successor."""
    caller = mp.parent_process()
    assert caller is not None
    wait([caller.sentinel])
    os._exit(1)


def _serve(connection: Connection, one_thread: bool) -> None:
    """A worker: runs tasks until its pipe ends.

    Sends a string for a tick, and a tuple at the end of a task: with its error, or empty.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an ordinary exit removes scratch files
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller too, and it ends the workers
    threading.Thread(target=_end_with_caller, daemon=True).start()
    prepare_process(1 if one_thread else None)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        except Exception as error:  # its function, or a class of its arguments, cannot be imported
            connection.send((portable(error),))
            continue
        try:
            task.function(*task.args, connection.send)
        except Exception as error:
            connection.send((portable(error),))
        else:
            connection.send(())


@contextmanager
def _terminated_by_exit() -> Iterator[None]:
    """Turn SIGTERM into an exit, so that workers end with this process."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
