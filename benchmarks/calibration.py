"""Levels and power of the nulls and coverage of the intervals, on thousands of planted worlds.

Tables go to standard output and, as JSON, into the folder of figures. The script draws the figures from that
file; they need kaleido and a Chromium. docs/trust.md holds the tables and explains them. All parts take about
seven minutes on one core; each also runs alone.

    OMP_NUM_THREADS=1 PYTHONPATH=tests python benchmarks/calibration.py [PART ...] [--runs N] [--out figures]
    python benchmarks/calibration.py --stored [--out figures]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import torch
from plotly.subplots import make_subplots

from planted.coverage import (
    DISTRIBUTIONS,
    clustered_coverage,
    false_discoveries,
    mean_coverage,
    recovered_coverage,
    reliability_coverage,
    spearman_coverage,
)
from planted.rates import Rate, rejections
from planted.worlds import World
from revlens.direction import drift, locate
from revlens.direction.nulls import NULLS
from revlens.figures.style import styled
from revlens.storage.atomic import atomic_file, write_json
from revlens.subject import source_digest

Row = dict[str, Any]

#: The pipeline's number of prompts; gap and drift have signal-to-noise 9 and directions of their own.
PIPELINE = World(n_prompts=72, noise_size=2.0)
_SPECTRUM = replace(PIPELINE, moves="spectrum", content="spectrum", noise="spectrum")
WORLDS = {
    "all directions alike": PIPELINE,
    "all directions alike, 4 layers": replace(PIPELINE, n_layers=4),
    "all directions alike, 4 correlated layers": replace(PIPELINE, n_layers=4, layer_correlation=0.8),
    "motion spreads as activations do": _SPECTRUM,
    "motion spreads as activations do, 4 correlated layers": replace(
        _SPECTRUM, n_layers=4, layer_correlation=0.8
    ),
    "nothing moves: noise alone": replace(PIPELINE, noise="spectrum", gap=0.0, drift=0.0),
    "motion in 4 axes of its own": replace(_SPECTRUM, moves="few"),
    "an offset of the aligned model is forgotten": replace(PIPELINE, fluctuation=0.5),
}
#: One colour for each distribution.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")


def row(rate: Rate, **settings: Any) -> Row:
    """The settings of a measurement, and its rate with the interval."""
    low, high = rate.interval
    return settings | {"hits": rate.hits, "runs": rate.n, "share": rate.value, "low": low, "high": high}


def recovery(runs: int) -> Iterator[Row]:
    """Means over at most 400 runs, by signal-to-noise of the gap; noise shrinks each figure by its share."""
    for ratio in (1.0, 4.0, 16.0, 64.0, 100.0):
        world = World(cosine=0.6, noise_size=(32 / (2 * ratio)) ** 0.5)
        planted = world.sample(min(runs, 400), seed=0)
        acts = planted.activations
        v_rev = locate(acts)
        crossed, naive = drift(acts, v_rev), drift(acts, locate(acts, "drift"), naive=True)
        truth = torch.cosine_similarity(planted.drift, planted.gap, dim=-1)
        found = torch.cosine_similarity(v_rev.unit, planted.gap, dim=-1)
        yield {
            "signal_to_noise": ratio,
            "cos(v_rev, truth)": float(found.mean()),
            "true alignment": float(truth.mean()),
            "cross-fitted": float(crossed.alignment.mean()),
            "naive": float(naive.alignment.mean()),
            "fraction / true": float(crossed.fraction.mean() / (planted.drift * planted.gap).sum(-1).mean()),
            "displacement / true": float(
                crossed.displacement.mean() / (planted.drift * planted.gap).sum(-1).mean()
            ),
        }


def chance(runs: int) -> Iterator[Row]:
    """Runs without reversion that exceed p99 of each null."""
    for name, world in WORLDS.items():
        for (null, estimate), rate in rejections(world, runs if world.n_layers == 1 else runs // 2).items():
            yield row(rate, world=name, null=null, estimate=estimate)


def prompts(runs: int) -> Iterator[Row]:
    """The nulls that prompts estimate, each under its own assumption, by number of prompts."""
    stated = {
        "covariance": replace(_SPECTRUM, noise_size=0.01),
        "relabelled": replace(PIPELINE, noise="spectrum", gap=0.0, drift=0.0),
    }
    for n in (8, 16, 32, 72):
        for null, world in stated.items():
            yield row(
                rejections(replace(world, n_prompts=n), 2 * runs, which=(null,))[null, "cross-fitted"],
                prompts=n,
                null=null,
            )


def power(runs: int) -> Iterator[Row]:
    """Runs that exceed p99, by the true cosine of gap and drift."""
    for name, world in (("all directions alike", PIPELINE), ("motion spreads as activations do", _SPECTRUM)):
        for cosine in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8):
            for (null, estimate), rate in rejections(replace(world, cosine=cosine), runs // 5).items():
                if estimate == "cross-fitted":
                    yield row(rate, world=name, cosine=cosine, null=null)


def means(runs: int) -> Iterator[Row]:
    """95 % intervals of `mean_over_runs`, and Student's, that hold the mean, by runs and distribution."""
    for distribution in DISTRIBUTIONS:
        for n in (2, 3, 4, 5, 6, 8, 12, 20):
            bootstrap, student = mean_coverage(n, distribution, runs)
            yield row(bootstrap, distribution=distribution, n=n, interval="mean_over_runs")
            yield row(student, distribution=distribution, n=n, interval="Student's t (not used)")


def intervals(runs: int) -> Iterator[Row]:
    """The other 95 % intervals."""
    for within_run in (0.0, 0.2, 0.5, 0.9):
        clustered, naive = clustered_coverage(5, 12, within_run, runs // 2)
        setting = f"5 runs of 12 points, correlated {within_run}"
        yield row(clustered, interval="mean over runs", setting=setting)
        yield row(naive, interval="points taken for runs (not used)", setting=setting)
    for n in (5, 10):
        clustered, naive = spearman_coverage(n, 12, runs // 10)
        yield row(clustered, interval="spearman_over_runs", setting=f"{n} runs of 12 points")
        yield row(
            naive, interval="Spearman, points taken for runs (not used)", setting=f"{n} runs of 12 points"
        )
    for n in (5, 8, 16, 32, 72):
        for skewed in (False, True):
            setting = f"{n} prompts, {'skewed' if skewed else 'normal'} gaps"
            yield row(
                recovered_coverage(n, skewed, runs // 2),
                interval="PatchSweep.recovered_interval",
                setting=setting,
            )
    for noise in ("isotropic", "spectrum"):
        for n in (8, 16, 72):
            for ratio in (1.0, 10.0):
                world = World(n_prompts=n, noise_size=(n / (2 * ratio)) ** 0.5, noise=noise)
                setting = f"{n} prompts, signal-to-noise {ratio:g}, {noise} noise"
                yield row(reliability_coverage(world, runs // 2), interval="reliability", setting=setting)


def discoveries(runs: int) -> Iterator[Row]:
    """Patch sweeps of 12 sites without any effect."""
    for n in (10, 24):
        for between_cells in (0.0, 0.8):
            low_p, found = false_discoveries(n, 12, between_cells, runs // 10 if n > 12 else runs // 4)
            setting = f"{n} prompts, cells correlated {between_cells}"
            yield row(low_p, what="first cell has p <= 0.05", setting=setting)
            yield row(found, what="some cell is significant", setting=setting)


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    part.__name__: part for part in (recovery, chance, prompts, power, means, intervals, discoveries)
}


def by_null(table: pd.DataFrame, x: str) -> list[go.Scatter]:
    """A line with intervals for each null."""
    return [
        _line(rows, x, str(null), NULLS[str(null)].colour, "dot" if null == "isotropic" else "solid")
        for null, rows in table.groupby("null", sort=False)
    ]


def _line(rows: pd.DataFrame, x: str, name: str, colour: str, dash: str = "solid") -> go.Scatter:
    error = {
        "type": "data",
        "symmetric": False,
        "array": rows["high"] - rows["share"],
        "arrayminus": rows["share"] - rows["low"],
        "width": 3,
    }
    return go.Scatter(
        x=rows[x],
        y=rows["share"],
        error_y=error,
        mode="lines+markers",
        name=name,
        line={"color": colour, "dash": dash, "width": 2},
    )


def chance_figure(table: pd.DataFrame) -> go.Figure:
    """Worlds from top to bottom, nulls beside each other within one."""
    figure, worlds = go.Figure(), list(table["world"].unique())
    for (null, estimate), rows in table.groupby(["null", "estimate"], sort=False):
        # A logarithmic axis has no zero: a share of zero stands at the upper end of its interval.
        some = rows["hits"] > 0
        x = rows["share"].where(some, rows["high"])
        offset = 0.18 * (list(NULLS).index(str(null)) - (len(NULLS) - 1) / 2)
        y = [worlds.index(world) + offset for world in rows["world"]]
        error = {
            "type": "data",
            "symmetric": False,
            "array": rows["high"] - x,
            "arrayminus": (x - rows["low"]).where(some, 0.0),
            "width": 0,
        }
        symbols = [
            ("circle" if estimate == "cross-fitted" else "circle-open") if hit else "triangle-left"
            for hit in some
        ]
        marker = {"color": NULLS[str(null)].colour, "size": 9, "symbol": symbols}
        figure.add_trace(
            go.Scatter(x=x, y=y, error_x=error, mode="markers", name=f"{null}, {estimate}", marker=marker)
        )
    figure.add_vline(x=0.01, line={"color": "#888", "dash": "dot"})
    styled(
        figure,
        title="Histories without reversion that exceed p99",
        x="share of runs (log scale)",
        y="",
        width=1000,
        height=560,
    )
    shares = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    figure.update_xaxes(
        type="log", tickvals=shares, ticktext=[f"{100 * share:g} %" for share in shares], range=[-3.4, 0.1]
    )
    figure.update_yaxes(
        tickvals=list(range(len(worlds))), ticktext=worlds, autorange="reversed", automargin=True
    )
    figure.update_layout(margin={"t": 110}, legend={"entrywidth": 190})
    return figure


def prompts_figure(table: pd.DataFrame) -> go.Figure:
    """Level by number of prompts."""
    figure = go.Figure(by_null(table, "prompts"))
    figure.add_hline(y=0.01, line={"color": "#888", "dash": "dot"})
    styled(
        figure,
        title="Each null under its own assumption",
        x="prompts in the split `direction`",
        y="share of runs above p99",
    )
    figure.update_xaxes(type="log", tickvals=sorted(table["prompts"].unique()))
    return figure.update_yaxes(tickformat=".0%", rangemode="tozero")


def power_figure(table: pd.DataFrame) -> go.Figure:
    """Power by true cosine, in a world where the isotropic null keeps its level and one where it does not."""
    worlds = list(table["world"].unique())
    figure = make_subplots(cols=2, shared_yaxes=True, subplot_titles=worlds, horizontal_spacing=0.05)
    for column, world in enumerate(worlds, start=1):
        for line in by_null(table[table["world"] == world], "cosine"):
            figure.add_trace(line.update(showlegend=column == 1), row=1, col=column)
    styled(figure, title="Power of one layer, d = 64", x="true cosine of drift and v_rev", y="", width=1000)
    figure.update_layout(margin={"t": 110}, legend={"y": 1.1})
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02])
    return figure.update_yaxes(title_text="share of runs above p99", col=1)


def means_figure(table: pd.DataFrame) -> go.Figure:
    """Coverage by number of runs, one line for each distribution."""
    table = table[table["interval"] == "mean_over_runs"]
    groups = table.groupby("distribution", sort=False)
    figure = go.Figure(
        [_line(rows, "n", str(name), colour) for (name, rows), colour in zip(groups, COLOURS, strict=True)]
    )
    figure.add_hline(y=0.95, line={"color": "#888", "dash": "dot"})
    styled(figure, title="95 % intervals of mean_over_runs that hold the mean", x="runs", y="coverage")
    figure.update_xaxes(type="log", tickvals=sorted(table["n"].unique()))
    return figure.update_yaxes(tickformat=".0%")


FIGURES = {"chance": chance_figure, "prompts": prompts_figure, "power": power_figure, "means": means_figure}


#: Rows and columns of a part's printed table, whose cells are the shares.
LAYOUT = {
    "chance": (["world"], ["null", "estimate"]),
    "prompts": (["prompts"], ["null"]),
    "power": (["world", "cosine"], ["null"]),
    "means": (["n", "interval"], ["distribution"]),
    "intervals": (["interval", "setting"], []),
    "discoveries": (["setting"], ["what"]),
}


def markdown(part: str, rows: Sequence[Row]) -> str:
    """A table, shares in percent with their 95 % interval."""
    table = pd.DataFrame(rows)
    if part in LAYOUT:
        index, columns = LAYOUT[part]
        table["share [95 %]"] = [
            f"{100 * r['share']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]" for r in rows
        ]
        table = table.set_index([*index, *columns])[["share [95 %]"]]
        if columns:
            order = pd.unique(table.droplevel(index).index)
            table = table["share [95 %]"].unstack(columns, sort=False)[order]
            table.columns = [
                ", ".join(name) if isinstance(name, tuple) else str(name) for name in table.columns
            ]
        table = table.reset_index()
    lines = [list(table.columns), ["---"] * table.shape[1]]
    lines += [
        [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        for cells in table.to_numpy(dtype=object)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--runs",
        type=int,
        default=2000,
        help="simulated runs; parts that are slow use a share of them (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("figures"),
        help="folder of calibration.json and the figures (default: %(default)s)",
    )
    parser.add_argument(
        "--stored", action="store_true", help="measure nothing; print and draw what is stored"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    torch.set_num_threads(1)

    path = options.out / "calibration.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for part in options.parts or PARTS:
        if not options.stored:
            rows = list(PARTS[part](options.runs))
            stored[part] = {
                "runs": options.runs,
                "source": source_digest(),
                "torch": torch.__version__,
                "rows": rows,
            }
            write_json(path, stored)
        if part in stored:
            runs = sorted({r["runs"] for r in stored[part]["rows"] if "runs" in r})
            table = markdown(part, stored[part]["rows"])
            print(f"## {part}\n\n{PARTS[part].__doc__}\n\n{table}\n\nSimulated: {runs}\n", flush=True)
    for part in FIGURES.keys() & stored.keys():
        figure = FIGURES[part](pd.DataFrame(stored[part]["rows"]))
        with atomic_file(options.out / f"calibration_{part}.png") as partial:
            pio.write_image(figure, partial, width=figure.layout.width, height=figure.layout.height)


if __name__ == "__main__":
    main()
