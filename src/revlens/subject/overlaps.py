"""Training rows free of probe prompts."""

from __future__ import annotations

import warnings

from datasets import Dataset

from revlens.data import DroppedWarning, check_no_leak, drop_leaks
from revlens.prompts import Probes


def without_overlaps(rows: Dataset, probes: Probes, what: str, near: float, *, drop: bool) -> Dataset:
    """The rows that share too little with any probe prompt.

    Args:
        rows: with a column ``prompt``.
        probes: prompts that must not be trained on.
        what: the rows are, for the warning.
        near: see `revlens.data.find_leaks`.
        drop: leave out the others, with a warning that says how many; an error otherwise.

    Raises:
        ProbeError: if a row overlaps with a probe prompt and is not to be dropped.
    """
    if not drop:
        check_no_leak(probes, rows, near=near)
        return rows
    kept, n_dropped = drop_leaks(rows, probes, near=near)
    if n_dropped:
        warnings.warn(
            f"Left out {n_dropped} row(s) of the {what} that overlap with a probe prompt.",
            DroppedWarning,
            stacklevel=2,
        )
    return kept
