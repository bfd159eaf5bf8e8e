"""Probe prompts that are trained on, word for word or nearly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from datasets import Dataset

from revlens.data.normalise import normalise
from revlens.data.splits import prompts_of
from revlens.errors import ConfigError, ProbeError
from revlens.prompts import Probes

N_WORDS = 3  # of a run of words; pairs of words also count sentence frames ("how to", "on how") as overlap


class Leak(NamedTuple):
    """A row of training data with the probe prompt that it gives away.

    Attributes:
        split: the probe prompt's split.
        prompt: the probe prompt.
        row: index of the training row.
        trained: the row's prompt.
        overlap: share of the probe's runs of three words that are in the row; 1 if they are the same.
    """

    split: str
    prompt: str
    row: int
    trained: str
    overlap: float


def find_leaks(probes: Probes, data: Dataset, *, near: float | None = None) -> Iterator[Leak]:
    """The rows whose prompt is a probe prompt after `normalise`, each with the probe that it shares most with.

    Args:
        probes: prompts that must not be trained on.
        data: training data with a column ``prompt``.
        near: also find rows with at least this share of a probe's runs of three words, however long the row; so a probe inside a
            longer prompt has overlap 1. 0.8 is a good value (docs/data.md has the numbers): of a probe of 12 words it finds
            versions that differ in the first or last two words (0.9, 0.8), but not one in the middle (0.7), and sentence frames
            that unrelated requests share stay below. Data made from templates needs ``None``: its prompts are mostly frame.
            Probes of fewer than three words are only found whole.

    Raises:
        ConfigError: if ``near`` is not in (0, 1].
        DataError: if there is no column ``prompt``.
    """
    if near is not None and not 0 < near <= 1:
        raise ConfigError(f"near={near} must be in (0, 1], a share of a probe's runs of {N_WORDS} words.")
    whole: dict[str, tuple[str, str]] = {}
    homes: dict[tuple[str, ...], list[int]] = defaultdict(list)  # run of words -> probes that have it
    listed: list[tuple[str, str, int]] = []  # split, prompt, number of runs
    for split, prompts in probes.splits.items():
        for prompt in prompts:
            whole.setdefault(normalise(prompt), (split, prompt))
            runs = runs_of(normalise(prompt))
            for run in runs:
                homes[run].append(len(listed))
            listed.append((split, prompt, len(runs)))
    for row, trained in enumerate(prompts_of(data)):
        text = normalise(trained)
        if text in whole:
            yield Leak(*whole[text], row, trained, 1.0)
        elif near is not None:
            counts = Counter(probe for run in runs_of(text) & homes.keys() for probe in homes[run])
            shares = {probe: n / listed[probe][2] for probe, n in counts.items()}
            best = max(
                shares, key=lambda probe: (shares[probe], -probe), default=None
            )  # of equals, the first probe
            if best is not None and shares[best] >= near:
                yield Leak(*listed[best][:2], row, trained, shares[best])


def runs_of(text: str) -> set[tuple[str, ...]]:
    """Every run of three words."""
    words = text.split()
    return {tuple(words[start : start + N_WORDS]) for start in range(len(words) - N_WORDS + 1)}


def check_no_leak(probes: Probes, data: Dataset, *, near: float | None = None) -> None:
    """Check that no probe prompt is trained on; arguments and other errors as in `find_leaks`.

    Raises:
        ProbeError: naming the first row that gives a probe prompt away.
    """
    for leak in find_leaks(probes, data, near=near):
        same = normalise(leak.prompt) == normalise(leak.trained)
        how = "is" if same else f"is nearly ({leak.overlap:.0%} of its runs of {N_WORDS} words)"
        raise ProbeError(
            f"Probe prompt {leak.prompt!r} of split {leak.split!r} {how} in the training data, as row {leak.row}: {leak.trained!r}. "
            "Remove it from one of them, for instance with revlens.data.drop_leaks(data, probes)."
        )


class Kept(NamedTuple):
    """Data without leaks, and how many rows were left out."""

    data: Dataset
    n_dropped: int


def drop_leaks(data: Dataset, probes: Probes, *, near: float | None = None) -> Kept:
    """The rows that give no probe prompt away, in their order; arguments and errors as in `find_leaks`."""
    leaking = {leak.row for leak in find_leaks(probes, data, near=near)}
    return Kept(data.select([row for row in range(len(data)) if row not in leaking]), len(leaking))
