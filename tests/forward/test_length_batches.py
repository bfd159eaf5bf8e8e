"""Every rule puts each prompt into one batch; each keeps its own bound on size and padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from revlens.errors import ConfigError
from revlens.forward.length_batches import (
    MAX_PADDED,
    equal_lengths,
    in_order,
    shortest_first,
    similar_lengths,
)

LENGTHS = [int(x) for x in torch.randint(1, 90, (200,), generator=torch.Generator().manual_seed(0))]
RULES = [in_order, shortest_first, similar_lengths, equal_lengths]
Rule = Callable[[list[int], int], list[list[int]]]


@pytest.mark.parametrize("batch_size", [1, 3, 64, 1000])
@pytest.mark.parametrize("rule", [shortest_first, similar_lengths, equal_lengths])
def test_every_prompt_is_in_one_batch(rule: Rule, batch_size: int) -> None:
    batches = rule(LENGTHS, batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


@pytest.mark.parametrize("rule", RULES)
def test_no_prompts_make_no_batches_and_a_batch_holds_a_prompt(rule: Rule) -> None:
    assert rule([], 3) == []
    for batch_size in (0, -2):
        with pytest.raises(ConfigError, match=f"batch_size={batch_size} must be at least 1"):
            rule(LENGTHS, batch_size)


def test_batches_in_order() -> None:
    assert in_order(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert in_order([4, 0, 2], 3) == [[4, 0, 2]]


def test_shortest_first_fills_its_batches_and_keeps_the_order_of_equals() -> None:
    assert shortest_first([3, 9, 3, 9, 3, 9], 4) == [[0, 2, 4, 1], [3, 5]]
    assert [len(batch) for batch in shortest_first(LENGTHS, 64)] == [64, 64, 64, 8]
    in_turn = [LENGTHS[i] for batch in shortest_first(LENGTHS, 7) for i in batch]
    assert in_turn == sorted(LENGTHS)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_similar_lengths_bound_the_padding(batch_size: int) -> None:
    for batch in similar_lengths(LENGTHS, batch_size):
        longest, tokens = max(LENGTHS[i] for i in batch), sum(LENGTHS[i] for i in batch)
        assert len(batch) * longest <= MAX_PADDED * tokens
    assert similar_lengths([3, 9, 3, 9, 3, 9], 64) == [[0, 2, 4], [1, 3, 5]]
    assert similar_lengths([5, 6, 5], 64) == [[0, 2, 1]]


def test_equal_lengths_do_not_pad() -> None:
    assert all(len({LENGTHS[i] for i in batch}) == 1 for batch in equal_lengths(LENGTHS, 5))
    assert equal_lengths([7, 2, 7, 2, 7], 2) == [[0, 2], [4], [1, 3]]
