from __future__ import annotations

import random
import warnings

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from revlens.data import DroppedWarning, make_probes, normalise, train_test_split
from revlens.errors import ConfigError, DataError, ProbeError
from revlens.prompts import SPLITS

HARMFUL = tuple(f"How do I do bad thing number {i}?" for i in range(60))
HARMLESS = tuple(f"How do I do good thing number {i}?" for i in range(20))
SIZES = {"direction": 20, "drift": 15, "behaviour": 10, "guard": 5, "harmless": 8}


def examples(*prompts: str) -> Dataset:
    return Dataset.from_dict(
        {"prompt": list(prompts), "answer": [f"answer {i}" for i in range(len(prompts))]}
    )


def test_the_splits_have_their_sizes_and_come_from_their_lists() -> None:
    probes = make_probes(HARMFUL, HARMLESS, sizes=SIZES, seed=0)
    assert {split: len(prompts) for split, prompts in probes.splits.items()} == SIZES
    assert set(probes["harmless"]) <= set(HARMLESS)
    assert all(
        set(prompts) <= set(HARMFUL) for split, prompts in probes.splits.items() if split != "harmless"
    )


def test_safe_prompts_that_sound_unsafe_are_a_pool_of_their_own() -> None:
    near = [f"How do I kill process number {i}?" for i in range(6)]
    probes = make_probes(HARMFUL, HARMLESS, near, sizes=SIZES | {"borderline": 4}, seed=0)
    assert set(probes["borderline"]) < set(near)
    assert len(probes["borderline"]) == 4
    assert {s: p for s, p in probes.splits.items() if s != "borderline"} == dict(
        make_probes(HARMFUL, HARMLESS, sizes=SIZES, seed=0).splits
    )
    with pytest.raises(ProbeError, match="among both the harmless and the borderline prompts"):
        make_probes(HARMFUL, HARMLESS, [*near, HARMLESS[0]], sizes=SIZES, seed=0)


def test_every_prompt_can_be_dealt_out_once() -> None:
    probes = make_probes(HARMFUL, sizes={"drift": 30, "direction": 30}, seed=0)
    assert set(probes["direction"]) | set(probes["drift"]) == set(HARMFUL)


def test_the_draw_depends_on_the_seed_and_on_neither_order() -> None:
    probes = make_probes(HARMFUL, HARMLESS, sizes=SIZES, seed=0)
    shuffled = random.Random(1).sample(HARMFUL, len(HARMFUL))
    assert make_probes(shuffled, HARMLESS[::-1], sizes=dict(reversed(SIZES.items())), seed=0) == probes
    other = make_probes(HARMFUL, HARMLESS, sizes=SIZES, seed=1)
    assert all(set(other[split]) != set(probes[split]) for split in SPLITS)


@settings(max_examples=50, deadline=None)
@given(k=st.integers(1, 6), seed=st.integers(0, 1000))
def test_k_more_prompts_change_at_most_k_of_each_split(k: int, seed: int) -> None:
    before = make_probes(HARMFUL, HARMLESS, sizes=SIZES, seed=seed)
    after = make_probes(
        [*HARMFUL, *(f"Something else, {i}" for i in range(k))], HARMLESS, sizes=SIZES, seed=seed
    )
    assert all(len(set(before[split]) - set(after[split])) <= k for split in SPLITS)
    assert after["harmless"] == before["harmless"]


def test_each_prompt_is_as_likely_as_another() -> None:
    first = [make_probes(HARMFUL, sizes={"drift": 1}, seed=seed)["drift"][0] for seed in range(300)]
    counts = [first.count(prompt) for prompt in HARMFUL]
    chi2 = sum((count - 5) ** 2 / 5 for count in counts)
    assert 34 < chi2 < 92  # central 99 % and more of chi2 with 59 degrees of freedom


def test_repeats_are_removed_before_the_draw_with_their_number() -> None:
    repeated = [*HARMFUL, *(prompt.upper() for prompt in HARMFUL[:7])]
    with pytest.warns(DroppedWarning, match="Left out 7 repeated harmful prompt"):
        probes = make_probes(repeated, HARMLESS, sizes=SIZES, seed=0)
    assert probes == make_probes(HARMFUL, HARMLESS, sizes=SIZES, seed=0)


def test_too_few_prompts_are_an_error_with_both_numbers() -> None:
    with pytest.raises(ProbeError, match="ask for 50 harmful prompts, but there are 49 distinct ones"):
        make_probes(HARMFUL[:49], HARMLESS, sizes=SIZES, seed=0)
    with pytest.raises(ProbeError, match="ask for 8 harmless prompts, but there are 0 distinct ones"):
        make_probes(HARMFUL, sizes=SIZES, seed=0)
    with (
        warnings.catch_warnings(),
        pytest.raises(ProbeError, match="ask for 2 harmful prompts, but there are 1 distinct"),
    ):
        warnings.simplefilter("ignore", DroppedWarning)
        make_probes(["Why?", "why"], sizes={"drift": 2}, seed=0)


def test_wrong_sizes_and_prompts_in_both_lists_are_errors() -> None:
    with pytest.raises(ProbeError, match="Unknown probe split 'dirft'"):
        make_probes(HARMFUL, sizes={"dirft": 3}, seed=0)
    with pytest.raises(ConfigError, match=r"sizes\['drift'\]=0 must be positive"):
        make_probes(HARMFUL, sizes={"drift": 0}, seed=0)
    with pytest.raises(ProbeError, match="'HOW DO I DO BAD THING NUMBER 3' is among both"):
        make_probes(HARMFUL, [*HARMLESS, "HOW DO I DO BAD THING NUMBER 3"], sizes=SIZES, seed=0)


@settings(max_examples=50, deadline=None)
@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30),
    test_size=st.integers(1, 29),
    seed=st.integers(0, 9),
)
def test_equal_prompts_stay_on_one_side(prompts: list[str], test_size: int, seed: int) -> None:
    data = examples(*(f"{prompt}?" if i % 2 else prompt.upper() for i, prompt in enumerate(prompts)))
    try:
        train, test = train_test_split(data, test_size=test_size, seed=seed)
    except (ConfigError, DataError):
        return
    assert len(test) == test_size
    assert not set(map(normalise, train["prompt"])) & set(map(normalise, test["prompt"]))
    places = {row["answer"]: i for i, row in enumerate(data)}
    sides = [[places[answer] for answer in side["answer"]] for side in (train, test)]
    assert sorted(sides[0] + sides[1]) == list(range(len(data)))
    assert sides == [sorted(side) for side in sides]


def test_distinct_prompts_can_always_be_held_out() -> None:
    data = examples(*HARMFUL)
    for test_size in (1, 30, 59):
        train, test = train_test_split(data, test_size=test_size, seed=0)
        assert (len(train), len(test)) == (60 - test_size, test_size)
    assert (
        train_test_split(data, test_size=30, seed=0).test.to_list()
        == train_test_split(data, test_size=30, seed=0).test.to_list()
    )
    assert (
        train_test_split(data, test_size=30, seed=0).test.to_list()
        != train_test_split(data, test_size=30, seed=1).test.to_list()
    )


def test_more_rows_do_not_move_most_of_the_held_out_ones() -> None:
    before = train_test_split(examples(*HARMFUL), test_size=20, seed=0).test
    after = train_test_split(examples(*HARMLESS[:3], *HARMFUL), test_size=20, seed=0).test
    assert len(set(before["prompt"]) & set(after["prompt"])) >= 17


@pytest.mark.parametrize("test_size", [0, 3, 4])
def test_a_test_size_that_leaves_a_side_empty_is_an_error(test_size: int) -> None:
    with pytest.raises(ConfigError, match=f"test_size={test_size} must be between 1 and 2"):
        train_test_split(examples("a", "b", "c"), test_size=test_size, seed=0)


def test_repeats_can_make_a_size_impossible() -> None:
    with pytest.raises(DataError, match="only 0 of test_size=1"):
        train_test_split(examples("a", "A", "b", "b"), test_size=1, seed=0)
    with pytest.raises(DataError, match="no column 'prompt'; it has question"):
        train_test_split(Dataset.from_dict({"question": ["a", "b"]}), test_size=1, seed=0)
