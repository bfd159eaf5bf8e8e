"""Leaks: probe prompts that are also trained on, word for word or nearly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from datasets import Dataset

from revlens.data.normalise import normalise
from revlens.data.splits import prompts_of
from revlens.errors import ConfigError, ProbeError
from revlens.prompts import Probes


class Leak(NamedTuple):
    """A training row with the probe prompt that it repeats.

    Attributes:
        split: the probe prompt's split.
        prompt: the probe prompt.
        row: index of the training row.
        trained: the row's prompt.
        overlap: share of the probe's word trigrams that are in the row; 1 if the two prompts are the same.
    """

    split: str
    prompt: str
    row: int
    trained: str
    overlap: float


def find_leaks(probes: Probes, data: Dataset, *, near: float | None = None) -> Iterator[Leak]:
    """Rows whose prompt is a probe prompt after `normalise`, each with the probe that it shares most with.

    Args:
        probes: prompts that must not be trained on.
        data: training data with a column ``prompt``.
        near: also find rows that hold at least this share of a probe's word trigrams, however long the row:
            a probe inside a longer prompt has overlap 1. 0.8 is a good value (docs/data.md has the
            numbers). Of a probe of 12 words it finds versions that differ in the first or the last one or
            two words (0.9, 0.8), but not in one in the middle (0.7); sentence frames that unrelated
            requests share stay below. Data made from templates needs ``None``: its prompts are mostly
            frame. Probes of fewer than three words are only found whole.

    Raises:
        ConfigError: if ``near`` is not in (0, 1].
        DataError: if there is no column ``prompt``.
    """
    if near is not None and not 0 < near <= 1:
        raise ConfigError(f"near={near} must be in (0, 1], a share of a probe's word trigrams.")
    whole: dict[str, tuple[str, str]] = {}
    homes: dict[tuple[str, ...], list[int]] = defaultdict(list)  # probes by trigram
    listed: list[tuple[str, str, int]] = []  # split, prompt, number of trigrams
    for split, prompts in probes.splits.items():
        for prompt in prompts:
            whole.setdefault(normalise(prompt), (split, prompt))
            of_prompt = trigrams(normalise(prompt))
            for trigram in of_prompt:
                homes[trigram].append(len(listed))
            listed.append((split, prompt, len(of_prompt)))
    for row, trained in enumerate(prompts_of(data)):
        text = normalise(trained)
        if text in whole:
            yield Leak(*whole[text], row, trained, 1.0)
        elif near is not None:
            counts = Counter(probe for trigram in trigrams(text) & homes.keys() for probe in homes[trigram])
            shares = {probe: n / listed[probe][2] for probe, n in counts.items()}
            # Of equal shares, the first probe's.
            best = max(shares, key=lambda probe: (shares[probe], -probe), default=None)
            if best is not None and shares[best] >= near:
                yield Leak(*listed[best][:2], row, trained, shares[best])


def trigrams(text: str) -> set[tuple[str, ...]]:
    """All word trigrams of a text. Pairs would count sentence frames ("how to", "on how") as overlap."""
    words = text.split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def check_no_leak(probes: Probes, data: Dataset, *, near: float | None = None) -> None:
    """Check that no probe prompt is trained on; arguments and other errors as in `find_leaks`.

    Raises:
        ProbeError: naming the first row that repeats a probe prompt.
    """
    for leak in find_leaks(probes, data, near=near):
        same = normalise(leak.prompt) == normalise(leak.trained)
        how = "is" if same else f"is nearly ({leak.overlap:.0%} of its word trigrams)"
        raise ProbeError(
            f"Probe prompt {leak.prompt!r} of split {leak.split!r} {how} in the training data, "
            f"as row {leak.row}: {leak.trained!r}. "
            "Remove it from one of them, for instance with revlens.data.drop_leaks(data, probes)."
        )


class Kept(NamedTuple):
    """Data without leaks, and how many rows were left out."""

    data: Dataset
    n_dropped: int


def drop_leaks(data: Dataset, probes: Probes, *, near: float | None = None) -> Kept:
    """The rows that repeat no probe prompt, in their order; arguments and errors as in `find_leaks`."""
    leaking = {leak.row for leak in find_leaks(probes, data, near=near)}
    return Kept(data.select([row for row in range(len(data)) if row not in leaking]), len(leaking))
