from __future__ import annotations

import pytest

from revlens.errors import ResultsError
from revlens.figures.style import method_colour, method_marker, null_colour, style_of, translucent
from revlens.training import ARMS, METHODS


def test_every_method_has_a_look_of_its_own() -> None:
    assert len({(method_colour(method), method_marker(method)) for method in METHODS}) == len(METHODS)
    assert len({method_colour(arm) for arm in ARMS}) == len(ARMS)


def test_every_null_has_a_colour_of_its_own() -> None:
    assert len({null_colour(null) for null in ("isotropic", "covariance", "relabelled")}) == 3


@pytest.mark.parametrize("style", [method_colour, method_marker, null_colour])
def test_what_has_no_style_is_an_error_and_not_left_out(style: object) -> None:
    assert callable(style)
    with pytest.raises(ResultsError, match="cannot draw 'sorcery', only .*give it a style"):
        style("sorcery")


def test_a_style_is_looked_up_by_name() -> None:
    assert style_of("b", {"a": 1, "b": 2}) == 2


def test_a_translucent_colour_keeps_its_hue() -> None:
    assert translucent("#0072B2", 0.4) == "rgba(0,114,178,0.4)"
