"""Every law, on a few cases in the ordinary run and on more than ten thousand in all in the slow run."""

from __future__ import annotations

import pytest

from hostile import (
    laws_of_commands,
    laws_of_configurations,
    laws_of_manifests,
    laws_of_numbers,
    laws_of_prompts,
    laws_of_tables,
)
from hostile.fuzzing import FAST, Law

# The test run's type checks look at random items of the values that strategies make.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")

_MODULES = (
    laws_of_commands,
    laws_of_configurations,
    laws_of_manifests,
    laws_of_numbers,
    laws_of_prompts,
    laws_of_tables,
)
LAWS = [law for module in _MODULES for law in module.LAWS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_a_law_holds(law: Law) -> None:
    assert law.hold(FAST) > 0


@pytest.mark.slow
def test_every_law_holds_for_ten_thousand_cases(capsys: pytest.CaptureFixture[str]) -> None:
    executed: dict[str, int] = {}
    broken: list[Exception] = []
    with capsys.disabled():
        for law in LAWS:
            try:
                executed[law.name] = law.hold(law.slow)
                print(f"{executed[law.name]:6d}  {law.name}", flush=True)
            except Exception as error:  # the other laws run as well
                print(f"BROKEN  {law.name}", flush=True)
                broken.append(error)
        print(f"{sum(executed.values()):6d}  cases of {len(LAWS)} laws; broken: {len(broken)}")
    if broken:
        raise ExceptionGroup("laws that do not hold", broken)
    assert sum(executed.values()) >= 10_000
