"""Optimizer and schedule of a fine-tune."""

from __future__ import annotations

from dataclasses import replace

import pytest

from revlens.errors import ConfigError
from revlens.training import FinetuneConfig

CONFIG = FinetuneConfig(steps=4, learning_rate=3e-3, batch_size=8)


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine() -> None:
    config = FinetuneConfig(steps=10, learning_rate=1.0, warmup_steps=4, decay=True)
    assert [config.rate_at(update) for update in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert [config.rate_at(update) for update in (5, 7, 10)] == pytest.approx([0.5 + 0.25 * 3**0.5, 0.5, 0.0])
    flat = replace(config, decay=False)
    assert [flat.rate_at(update) for update in (0, 3, 4, 9)] == [0.25, 1.0, 1.0, 1.0]
    assert replace(config, warmup_steps=0, decay=False).rate_at(0) == 1.0
    assert replace(config, warmup_steps=10).rate_at(9) == 1.0


@pytest.mark.parametrize("name", ["steps", "learning_rate", "batch_size", "max_grad_norm"])
def test_sizes_and_rates_must_be_positive(name: str) -> None:
    kind = type(getattr(CONFIG, name))
    for value in (kind(0), kind(-1)):
        with pytest.raises(ConfigError, match=f"{name}={value} must be positive"):
            replace(CONFIG, **{name: value})


@pytest.mark.parametrize("warmup_steps", [-1, 5])
def test_the_warm_up_must_fit_into_the_steps(warmup_steps: int) -> None:
    with pytest.raises(ConfigError, match=f"warmup_steps={warmup_steps} must lie between 0 and steps=4"):
        replace(CONFIG, warmup_steps=warmup_steps)
    assert replace(CONFIG, warmup_steps=4).warmup_steps == 4
