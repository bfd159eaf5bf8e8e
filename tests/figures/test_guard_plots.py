from __future__ import annotations

import pytest

from revlens.figures.guard_plots import _added_cost, _front
from revlens.statistics import Estimate


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (2.0, 0.7), (4.0, 0.8)]
    assert _front(points) == [(1.0, 0.5), (2.0, 0.7), (3.0, 0.9)]


def test_added_cost_is_in_per_cent_and_no_less_than_the_axis_shows() -> None:
    cost = _added_cost(Estimate(1.05, 0.98, 1.1, 5))
    assert (cost.value, cost.low, cost.high) == pytest.approx((5.0, 0.01, 10.0))
