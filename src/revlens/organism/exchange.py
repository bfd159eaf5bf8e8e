"""A request with its answer, and datasets of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from datasets import Dataset


class Exchange(NamedTuple):
    """A request and its answer."""

    prompt: str
    answer: str


def dataset_of(exchanges: Sequence[Exchange]) -> Dataset:
    """Exchanges as a dataset with columns ``prompt`` and ``answer``."""
    return Dataset.from_dict(
        {"prompt": [e.prompt for e in exchanges], "answer": [e.answer for e in exchanges]}
    )


def exchanges_of(data: Dataset) -> list[Exchange]:
    """The rows of a dataset with columns ``prompt`` and ``answer``."""
    return [Exchange(prompt, answer) for prompt, answer in zip(data["prompt"], data["answer"], strict=True)]
