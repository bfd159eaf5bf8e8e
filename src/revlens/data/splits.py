"""Disjoint splits of prompts and examples. They depend on the texts and a seed, not on the file's order."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from datasets import Dataset

from revlens.data.normalise import distinct, normalise
from revlens.data.table_source import DroppedWarning
from revlens.errors import ConfigError, DataError, ProbeError
from revlens.prompts import ALL_SPLITS, Probes


def rank(prompt: str, seed: int) -> str:
    """A prompt's place in the seed's random order: SHA-256 (hex) over the seed and the normalised prompt."""
    return hashlib.sha256(f"{seed}\x1f{normalise(prompt)}".encode()).hexdigest()


def make_probes(
    harmful: Sequence[str],
    harmless: Sequence[str] = (),
    borderline: Sequence[str] = (),
    *,
    sizes: Mapping[str, int],
    seed: int,
) -> Probes:
    """Draw disjoint probe splits at random, without replacement, after repeats are removed.

    Prompts are sorted by their `rank` and dealt out in the order of `ALL_SPLITS`. So the draw does not depend
    on the order of the input, and k more prompts change at most k prompts of each split; a new shuffle
    would change nearly all of them.

    Args:
        harmful: requests for every split but ``harmless`` and ``borderline``.
        harmless: requests for the split ``harmless``.
        borderline: requests for the split ``borderline``.
        sizes: number of prompts by split; a split without one is not made.
        seed: fixes the draw.

    Raises:
        ProbeError: on an unknown split, if there are too few prompts, or if a prompt is in two lists.
        ConfigError: if a size is not positive.

    Warns:
        DroppedWarning: if a list repeats prompts (see `distinct`), with their number.
    """
    for split, size in sizes.items():
        if split not in ALL_SPLITS:
            raise ProbeError(f"Unknown probe split {split!r}; expected some of {', '.join(ALL_SPLITS)}.")
        if size < 1:
            raise ConfigError(f"sizes[{split!r}]={size} must be positive; leave the split out to have none.")
    given = {"harmful": harmful, "harmless": harmless, "borderline": borderline}
    pools = {kind: _ranked(kind, prompts, seed) for kind, prompts in given.items()}
    home: dict[str, str] = {}
    for kind, pool in pools.items():
        for prompt in pool:
            if (other := home.setdefault(normalise(prompt), kind)) != kind:
                raise ProbeError(
                    f"Prompt {prompt!r} is among both the {other} and the {kind} prompts; "
                    "remove it from one of them."
                )
    splits: dict[str, tuple[str, ...]] = {}
    dealt = dict.fromkeys(pools, 0)
    for split in (split for split in ALL_SPLITS if split in sizes):
        kind = split if split in pools else "harmful"
        start = dealt[kind]
        dealt[kind] += sizes[split]
        splits[split] = pools[kind][start : dealt[kind]]
    for kind, pool in pools.items():
        if dealt[kind] > len(pool):
            raise ProbeError(
                f"The sizes ask for {dealt[kind]} {kind} prompts, but there are {len(pool)} distinct ones."
            )
    return Probes(splits)


class TrainTest(NamedTuple):
    """Two disjoint parts of a data set, each in its order."""

    train: Dataset
    test: Dataset


def train_test_split(data: Dataset, *, test_size: int, seed: int) -> TrainTest:
    """Hold out exactly ``test_size`` rows at random; rows with equal prompts after `normalise` stay together.

    Prompts are held out by increasing `rank`, except those whose rows would exceed ``test_size``.

    Raises:
        ConfigError: if ``test_size`` leaves nothing on one side.
        DataError: if there is no column ``prompt``, or repeats make the exact size impossible in this order.
    """
    if not 0 < test_size < len(data):
        raise ConfigError(
            f"test_size={test_size} must be between 1 and {len(data) - 1}, one less than the rows."
        )
    groups: dict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts_of(data)):
        groups[rank(prompt, seed)].append(row)
    test: list[int] = []
    for _, rows in sorted(groups.items()):
        if len(test) + len(rows) <= test_size:
            test += rows
    if len(test) < test_size:
        raise DataError(
            f"Rows with equal prompts stay together, so only {len(test)} of test_size={test_size} "
            "could be held out; change it."
        )
    held_out = set(test)
    return TrainTest(
        data.select([row for row in range(len(data)) if row not in held_out]), data.select(sorted(held_out))
    )


def prompts_of(data: Dataset) -> Sequence[str]:
    """The column ``prompt``.

    Raises:
        DataError: if there is none.
    """
    if "prompt" not in data.column_names:
        raise DataError(
            f"The data has no column 'prompt'; it has {', '.join(data.column_names)}. "
            "ChatSource.read makes one."
        )
    return data["prompt"][:]


def _ranked(kind: str, prompts: Sequence[str], seed: int) -> tuple[str, ...]:
    pool, n_repeats = distinct(prompts)
    if n_repeats:
        warnings.warn(f"Left out {n_repeats} repeated {kind} prompt(s).", DroppedWarning, stacklevel=3)
    return tuple(sorted(pool, key=lambda prompt: rank(prompt, seed)))
