"""A slider under a heat map: one map for each step."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from revlens.figures.traces import heat_map, two_digits


def maps_by_step(maps: Mapping[int, pd.DataFrame], title: str) -> go.Figure:
    """Heat maps of values between -1 and 1, of which a slider shows one; the last one to begin with.

    Args:
        maps: by step, in order, with the same rows and columns.
        title: of the colour bar.
    """
    figure = go.Figure(heat_map(maps[max(maps)], title))
    # plotly.js draws what a slider sets as it stands, so these are lists and no encoded arrays.
    steps = [
        {
            "label": str(step),
            "method": "restyle",
            "args": [{"z": [table.to_numpy().tolist()], "text": [two_digits(table).to_numpy().tolist()]}],
        }
        for step, table in maps.items()
    ]
    slider = {
        "active": len(steps) - 1,
        "currentvalue": {"prefix": "step "},
        "pad": {"t": 50},
        "steps": steps,
    }
    return figure.update_layout(sliders=[slider])
