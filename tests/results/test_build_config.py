from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from revlens.errors import ConfigError
from revlens.results import build_config


@dataclass(frozen=True)
class Left:
    n: int = 1


@dataclass(frozen=True)
class Right:
    n: int = 2


@dataclass(frozen=True)
class Settings:
    n: int
    rate: float = 0.5
    name: str = "a"
    flag: bool = False
    limit: int | None = None
    seeds: tuple[int, ...] = (0,)
    grid: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    side: Left | Right = Left()
    free: Any = None

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ConfigError(f"n={self.n} must not be negative.")


def test_settings_are_taken_as_they_are_and_the_rest_has_its_default() -> None:
    grid = {"block": (0.5, None, 2)}
    built = build_config(Settings, {"n": 10**30, "rate": 3, "seeds": (1, 2), "grid": grid, "side": Right()})
    assert built == Settings(10**30, 3.0, seeds=(1, 2), grid=grid, side=Right())
    assert isinstance(built.rate, float)
    assert build_config(Settings, {"n": 1, "free": {"type": ("x", 3)}}).free == {"type": ("x", 3)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": "5"}, "n is '5', expected a whole number"),
        ({"n": True}, "n is True, expected a whole number"),
        ({"n": 5.0}, "n is 5.0, expected a whole number"),
        ({"n": None}, "n is None, expected a whole number"),
        ({"rate": "fast"}, "rate is 'fast', expected a finite number"),
        ({"rate": math.nan}, "rate is nan, expected a finite number"),
        ({"rate": -math.inf}, "rate is -inf, expected a finite number"),
        ({"rate": 10**400}, "expected a finite number"),
        ({"rate": True}, "rate is True, expected a finite number"),
        ({"name": 3}, "name is 3, expected text"),
        ({"flag": 1}, "flag is 1, expected true or false"),
        ({"flag": "true"}, "flag is 'true', expected true or false"),
        ({"limit": "none"}, "limit is 'none', expected a whole number"),
        ({"seeds": 3}, "seeds is 3, expected a list"),
        ({"seeds": (1, "2")}, "seeds[1] is '2', expected a whole number"),
        ({"grid": 3}, "grid is 3, expected a table"),
        ({"grid": {"block": (0.5, "x")}}, "grid.block[1] is 'x', expected a finite number"),
        ({"side": 3}, "side is 3, expected Left or Right"),
        ({"side": {"n": 3}}, "side is {'n': 3}, expected Left or Right"),
        ({"sides": Left()}, "there is no setting 'sides'"),
        ({"n": "5", "rate": "x"}, "n is '5', expected a whole number"),
    ],
)
def test_another_type_is_an_error_in_the_words_of_a_reader_of_toml(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=f"{re.escape(message)}$"):
        build_config(Settings, {"n": 1} | settings)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(TypeError, match="^n is missing$"):
        build_config(Settings, {})


def test_the_dataclass_has_its_own_word_on_ranges() -> None:
    with pytest.raises(ConfigError, match=r"^n=-1 must not be negative\.$"):
        build_config(Settings, {"n": -1})


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(TypeError) as refused:
        build_config(Settings, {"n": "x" * 10_000})
    assert len(str(refused.value)) < 100
