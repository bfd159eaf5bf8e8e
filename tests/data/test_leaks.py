from __future__ import annotations

import pytest
from datasets import Dataset

from revlens.data import Leak, check_no_leak, drop_leaks, find_leaks
from revlens.errors import ConfigError, DataError, ProbeError
from revlens.organism import World
from revlens.prompts import Probes

#: Twelve words, so ten trigrams.
PROBE = "Write a short story about nine green birds that cross the sea"


def training(*prompts: str) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts), "answer": ["An answer."] * len(prompts)})


def overlaps(trained: str, probe: str = PROBE) -> float:
    """What `find_leaks` says of one probe and one row, by asking for any overlap at all."""
    leaks = list(find_leaks(Probes({"drift": (probe,)}), training(trained), near=1e-9))
    return leaks[0].overlap if leaks else 0.0


def test_a_probe_prompt_in_the_training_data_is_an_error() -> None:
    probes = Probes({"direction": ("a", "b"), "drift": ("c", "d")})
    with pytest.raises(
        ProbeError, match="'d' of split 'drift' is in the training data, as row 1: 'd'. Remove it"
    ):
        check_no_leak(probes, training("e", "d"))
    with pytest.raises(ProbeError, match="'a' of split 'direction' is in the training data, as row 2: ' A!'"):
        check_no_leak(probes, training("e", "cd", " A!"))
    check_no_leak(probes, Dataset.from_dict({"prompt": ["e", "cd"], "answer": ["a", "b"]}))


@pytest.mark.parametrize(
    ("trained", "overlap"),
    [
        (PROBE.upper() + "!", 1.0),
        (f"Please do this for me now: {PROBE}, and add a title.", 1.0),
        (PROBE.replace("sea", "road"), 0.9),
        (PROBE.replace("Write", "Tell"), 0.9),
        (PROBE.replace("the sea", "a road"), 0.8),
        (PROBE.replace("nine", "ten"), 0.7),
        ("Write a short story about a fox", 0.3),
        ("The birds write a sea story", 0.0),
        (" ".join(reversed(PROBE.split())), 0.0),
    ],
)
def test_overlap_is_the_share_of_the_probe_s_trigrams(trained: str, overlap: float) -> None:
    assert overlaps(trained) == overlap


def test_a_part_of_the_probe_is_no_leak_of_the_whole() -> None:
    assert overlaps(" ".join(PROBE.split()[:6])) == 0.4


def test_both_sides_of_the_threshold() -> None:
    probes = Probes({"behaviour": (PROBE,)})
    at, below = PROBE.replace("the sea", "a road"), PROBE.replace("nine", "ten")
    check_no_leak(probes, training(at, below))
    check_no_leak(probes, training(below), near=0.8)
    with pytest.raises(
        ProbeError,
        match=r"is nearly \(80% of its word trigrams\) in the training data, as row 1: 'Write .* a road'",
    ):
        check_no_leak(probes, training(below, at), near=0.8)


def test_each_leaking_row_is_found_once_with_its_best_probe() -> None:
    other = PROBE.replace("sea", "road")
    probes = Probes({"direction": (PROBE,), "drift": (other, "What now?")})
    rows = ["Nothing", f"Say: {other}", PROBE, "what NOW", "So what now?"]
    assert list(find_leaks(probes, training(*rows), near=0.8)) == [
        Leak("drift", other, 1, rows[1], 1.0),
        Leak("direction", PROBE, 2, rows[2], 1.0),
        Leak("drift", "What now?", 3, rows[3], 1.0),
    ]


def test_dropping_leaks_leaves_the_rest_in_order_and_clean() -> None:
    probes = Probes({"drift": (PROBE, "What now?")})
    data = training("One", "what now", PROBE.replace("sea", "road"), "Two", "What now?")
    assert [
        (kept.data["prompt"][:], kept.n_dropped)
        for kept in (drop_leaks(data, probes), drop_leaks(data, probes, near=0.8))
    ] == [
        (["One", PROBE.replace("sea", "road"), "Two"], 2),
        (["One", "Two"], 3),
    ]
    check_no_leak(probes, drop_leaks(data, probes, near=0.8).data, near=0.8)
    assert drop_leaks(training("One"), probes).data["prompt"][:] == ["One"]


def test_templates_are_shared_without_a_leak(world: World) -> None:
    check_no_leak(world.probes(), world.benign(64, seed=0))


@pytest.mark.parametrize("near", [0.0, -0.5, 1.01])
def test_a_threshold_out_of_range_is_an_error(near: float) -> None:
    with pytest.raises(ConfigError, match=r"near=.* must be in \(0, 1\]"):
        check_no_leak(Probes({"drift": ("a",)}), training("b"), near=near)


def test_data_without_prompts_is_an_error() -> None:
    with pytest.raises(DataError, match="no column 'prompt'; it has text"):
        check_no_leak(Probes({"drift": ("a",)}), Dataset.from_dict({"text": ["a"]}))
