"""Laws that hold for any input, run on a chosen number of cases and counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from revlens.errors import RevlensError

#: Cases of a law in the ordinary test run.
FAST = 25


@dataclass(frozen=True)
class Law:
    """A statement about any value of some strategies.

    Attributes:
        check: raises if the statement does not hold. Where the library may refuse the input, it must raise a
            RevlensError.
        values: strategies by argument of ``check``.
        slow: cases in the slow run.
    """

    check: Callable[..., None]
    values: dict[str, SearchStrategy[Any]]
    slow: int

    @property
    def name(self) -> str:
        return self.check.__name__

    def hold(self, n: int) -> int:
        """Try ``n`` cases, the same ones every time; returns the number executed."""
        executed = 0

        # No shrinking: shrinking a failing case of a whole manifest takes minutes.
        @settings(
            max_examples=n,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(**self.values)
        def case(**values: Any) -> None:
            nonlocal executed
            self.check(**values)
            executed += 1

        case()
        return executed


def explains(error: RevlensError, *names: str) -> None:
    """Check that a refusal is a sentence, and names what it is about."""
    assert len(str(error)) > 15, error
    assert any(name in str(error) for name in names or ("",)), error


def law(
    laws: list[Law], slow: int, **values: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to a list of laws."""

    def added(check: Callable[..., None]) -> Callable[..., None]:
        laws.append(Law(check, values, slow))
        return check

    return added
