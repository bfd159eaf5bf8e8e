"""What v_rev and the drift are made of: one figure for each lens, drawn from the tables of its analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.figures.style import style_of, styled, translucent
from revlens.figures.traces import area, each_run, heat_map

#: Random directions: their names in figures, and their colours.
_NULLS: Mapping[str, tuple[str, str]] = {
    "isotropic": ("random directions, 95 %", "#009E73"),
    "covariance": ("covariance-matched ones, 95 %", "#CC79A7"),
}
_OPENINGS = {"refusal": "openings of refusals", "engaging": "openings of engaging answers"}


def stream_lens_figure(stream: pd.DataFrame) -> go.Figure:
    """Probability of each kind of opening by layer and checkpoint, mean over prompts and runs.

    Args:
        stream: columns ``seed``, ``checkpoint`` (in order), ``layer``, ``refusal``, ``engaging``.
    """
    figure = _panels(list(_OPENINGS.values()), shared_yaxes=True)
    checkpoints = list(stream["checkpoint"].unique())
    for column, kind in enumerate(_OPENINGS, start=1):
        means = stream.groupby(["layer", "checkpoint"])[kind].mean().unstack()[checkpoints]
        cells = heat_map(means, "probability", showscale=column == 1)
        figure.add_trace(cells.update(zmin=0, zmax=1, zmid=None, colorscale="Blues"), row=1, col=column)
    title = "The stream of the last prompt token, read after each layer (logit lens)"
    height = max(380, 180 + 24 * stream["layer"].nunique())
    _finished(figure, title=title, x="checkpoint", y="layer", height=height)
    return figure.update_layout(margin={"t": 90})  # there is no legend


def lens_scores_figure(
    scores: pd.DataFrame, panels: Sequence[tuple[str, str, str]], *, title: str, y: str, column: str = "score"
) -> go.Figure:
    """A panel for each lens and direction: its score in every run by layer, beside random directions.

    Runs differ in what random directions score, so each is drawn above the mean of its own isotropic ones.

    Args:
        scores: columns ``seed``, ``lens``, ``direction``, ``null``, ``layer``, the score, ``null_mean``,
            ``null_low`` and ``null_high``; a row for each null, of which ``isotropic`` is one.
        panels: lens, direction and title of each.
        title: of the figure.
        y: name of the score above random directions, with its unit.
        column: of the score.
    """
    scores = _above_isotropic(scores, column)
    figure = _panels([name for _, _, name in panels], shared_yaxes=True)
    for i, (lens, direction, _) in enumerate(panels, start=1):
        rows = scores[(scores["lens"] == lens) & (scores["direction"] == direction)]
        traces: list[go.Scatter] = []
        for null, own in rows.groupby("null", sort=False):
            name, colour = style_of(str(null), _NULLS)
            low, high = (own.groupby("layer")[end].mean() for end in ("null_low", "null_high"))
            band = area(sorted(own["layer"].unique()), low, high, translucent(colour, 0.3))
            traces.append(band.update(name=name, legendgroup=name, showlegend=i == 1))
        one_null = rows[rows["null"] == "isotropic"]
        runs = each_run(one_null, "layer", column, name="the direction, a run")
        traces += [run.update(showlegend=i == 1 and bool(run.showlegend)) for run in runs]
        figure.add_traces(traces, rows=1, cols=i)
    return _by_layer(_finished(figure, title=title, x="layer", y=y), scores)


def _above_isotropic(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Scores and ends of nulls, less the mean of the isotropic directions of the same run and layer."""
    keys = ["seed", "lens", "direction", "layer"]
    isotropic = scores[scores["null"] == "isotropic"].set_index(keys)["null_mean"].rename("level")
    joined = scores.join(isotropic, on=keys)
    return joined.assign(
        **{name: joined[name] - joined["level"] for name in (column, "null_low", "null_high")}
    )


def features_figure(features: pd.DataFrame) -> go.Figure:
    """Cosine of the nearest feature of each layer in every run, beside the nearest of random directions.

    Args:
        features: columns ``seed``, ``dictionary``, ``direction``, ``layer``, ``null``, ``rank``, ``cosine``,
            ``null_mean`` and ``null_high``.
    """
    nearest = features[features["rank"] == 1].assign(cosine=lambda rows: rows["cosine"].abs())
    panels = list(nearest[["dictionary", "direction"]].drop_duplicates().itertuples(index=False, name=None))
    figure = _panels([f"{dictionary}: {direction}" for dictionary, direction in panels], shared_yaxes=True)
    for i, (dictionary, direction) in enumerate(panels, start=1):
        rows = nearest[(nearest["dictionary"] == dictionary) & (nearest["direction"] == direction)]
        for null, own in rows.groupby("null", sort=False):
            name, colour = style_of(str(null), _NULLS)
            ends = own.groupby("layer")[["null_mean", "null_high"]].mean()
            band = area(list(ends.index), ends["null_mean"], ends["null_high"], translucent(colour, 0.3))
            label = f"{name.removesuffix(', 95 %')}, mean to 95th percentile"
            figure.add_trace(band.update(name=label, showlegend=i == 1), row=1, col=i)
        one_null = rows[rows["null"] == rows["null"].iloc[0]]
        which = zip(one_null["seed"], one_null["feature"], strict=True)
        dots = go.Scatter(
            x=one_null["layer"], y=one_null["cosine"], mode="markers", name="nearest feature, a run",
            marker={"color": "#000000", "size": 7}, showlegend=i == 1,
            hovertext=[f"seed {seed}, feature {feature}" for seed, feature in which],
        )  # fmt: skip
        figure.add_trace(dots, row=1, col=i)
    figure.update_yaxes(rangemode="tozero")
    title = "The feature that writes most nearly along a direction"
    return _by_layer(_finished(figure, title=title, x="layer", y="absolute cosine"), nearest)


def _by_layer(figure: go.Figure, rows: pd.DataFrame) -> go.Figure:
    """Ticks at whole layers, about ten at most."""
    return figure.update_xaxes(dtick=1 + rows["layer"].nunique() // 10)


def _panels(titles: list[str], *, shared_yaxes: bool) -> go.Figure:
    return make_subplots(
        cols=len(titles), subplot_titles=titles, horizontal_spacing=0.08, shared_yaxes=shared_yaxes
    )


def _finished(figure: go.Figure, *, title: str, x: str, y: str, height: int = 460) -> go.Figure:
    """Style panels: one y title, at the left, and room for the legend above the panels' titles."""
    styled(figure, title=title, x=x, y="", width=1080, height=height)
    figure.update_layout(margin={"t": 130}, legend={"y": 1.1})
    figure.update_yaxes(title_text=y, col=1)
    return figure.update_annotations(font_size=13)
