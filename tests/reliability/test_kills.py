"""Killed at random moments and started again, an experiment ends with the files of one that was never interrupted."""

from __future__ import annotations

import random
import shutil
from collections import Counter

import pytest
from breaking import Unbroken, contents, unbroken_run


@pytest.fixture
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return unbroken_run(tmp_path_factory.getbasetemp())


def kill_and_resume(unbroken: Unbroken, n_kills: int, seed: int) -> Counter[str]:
    """Start, kill and start again, with a new experiment after each that ended; where the kills fell, by the stage last heard from."""
    bench, moments, fell = unbroken.bench, random.Random(seed), Counter[str]()
    while fell.total() < n_kills:
        ended = False
        while not ended:
            bench.spot.set("start")
            child = bench.start()
            # The last attempt of all is not killed.
            status = child.wait(moments.uniform(0, unbroken.seconds) if fell.total() < n_kills else 600)
            if status is None:
                child.kill()
                fell[bench.spot.get()] += 1
            else:
                assert status == 0, child.error()
                ended = True
        assert contents(bench.folder / "out") == unbroken.out
        assert contents(bench.folder / "cache") == unbroken.cache
        shutil.rmtree(bench.folder)
    return fell


def test_a_handful_of_kills_leaves_the_same_files(unbroken: Unbroken) -> None:
    assert kill_and_resume(unbroken, 4, seed=0).total() == 4


@pytest.mark.slow
def test_a_hundred_kills_leave_the_same_files(unbroken: Unbroken) -> None:
    fell = kill_and_resume(unbroken, 120, seed=1)
    print(f"{fell.total()} kills survived: {dict(fell)}")
    assert {"history", "finetune", "capture", "behaviour", "causal"} <= fell.keys()
