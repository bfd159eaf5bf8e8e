"""Which prompts share a forward pass, by their lengths; every rule gives each prompt's index once.

Training draws its batches at random, see `revlens.training`.
"""

from __future__ import annotations

from collections.abc import Sequence

from revlens.errors import ConfigError

#: Tokens that a pass of `similar_lengths` computes at most, padding included, per token of a prompt.
MAX_PADDED = 4 / 3


def in_order(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of ``batch_size`` indices in their order; the last one may be smaller.

    Raises:
        ConfigError: if the batch size is below 1.
    """
    _check(batch_size)
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def shortest_first(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Full batches by increasing length.

    For generation: its cost is a pass per batch and new token, so that few batches are worth some padding.

    Raises:
        ConfigError: if the batch size is below 1.
    """
    return in_order(_sorted_by_length(lengths), batch_size)


def similar_lengths(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches by increasing length, each of at most ``batch_size`` prompts and a quarter of padding.

    Raises:
        ConfigError: if the batch size is below 1.
    """
    _check(batch_size)
    batches: list[list[int]] = []
    tokens = 0
    for i in _sorted_by_length(lengths):
        if (
            not batches
            or len(batches[-1]) == batch_size
            or (len(batches[-1]) + 1) * lengths[i] > MAX_PADDED * (tokens + lengths[i])
        ):
            batches.append([])
            tokens = 0
        batches[-1].append(i)
        tokens += lengths[i]
    return batches


def equal_lengths(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of at most ``batch_size`` prompts of equal length, without padding.

    Lengths come in the order of the first prompt that has them.

    Raises:
        ConfigError: if the batch size is below 1.
    """
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(length, []).append(i)
    return [batch for indices in by_length.values() for batch in in_order(indices, batch_size)]


def _sorted_by_length(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: lengths[i])


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
