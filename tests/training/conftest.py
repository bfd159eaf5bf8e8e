"""What all tests of training share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _frozen_garbage() -> Iterator[None]:
    """Every Trainer collects garbage; among the objects of all libraries that would take most of its time."""
    gc.freeze()
    yield
    gc.unfreeze()
