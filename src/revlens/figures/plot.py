"""A figure of a report: how it is drawn, what it shows and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import plotly.graph_objects as go

from revlens.results import Tables

_Tables = TypeVar("_Tables", bound=Tables)


def _nothing_more(tables: Any) -> bool:
    return True


@dataclass(frozen=True)
class Plot(Generic[_Tables]):
    """A figure that is drawn from tables and from nothing else.

    Attributes:
        name: of its file, without the suffix.
        draw: from tables to the figure.
        caption: what it shows, in a sentence or two.
        needs: whether tables hold what it draws.
    """

    name: str
    draw: Callable[[_Tables], go.Figure]
    caption: str
    needs: Callable[[_Tables], bool] = _nothing_more
