"""Figures of the causal studies, drawn from the tables of `revlens.experiment.Results`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.causal import action_label
from revlens.experiment import MAIN_ACTION, PAIRS, Results, effects_at_chosen
from revlens.figures.style import DIRECTION_COLOURS, PART_COLOURS, band, styled, translucent
from revlens.statistics import Estimate, mean_over_runs

_PAIR_TITLES = {
    "restore": "aligned → fine-tuned: does refusal come back?",
    "remove": "fine-tuned → aligned: does it go?",
    "reference": "reference → aligned: does it go?",
}
_SUBJECT_TITLES = {"tuned": "fine-tuned model", "aligned": "aligned model"}


def patching_heat_maps(results: Results) -> go.Figure:
    """Share recovered by patching resid_post, layer by position, with marks where it is significant in every run."""
    figure = _panels([_PAIR_TITLES[pair] for pair in PAIRS])
    rows = results["patching"]
    rows = rows[(rows["component"] == "resid_post") & (rows["part"] == "full")]
    for column, pair in enumerate(PAIRS, start=1):
        cells = rows[rows["pair"] == pair].groupby(["layer", "position"])
        share, everywhere = cells["recovered"].mean().unstack(), cells["significant"].all().unstack()
        plain = share.map(_two_digits)
        text = np.where(everywhere, plain + "•", plain)
        figure.add_trace(_heat_map(share, text, showscale=column == 1), row=1, col=column)
    title = "Patching the residual stream between checkpoints (• = significant in every run, Benjamini-Hochberg 5 %)"
    return _finished(
        figure, title=title, x="prompt token, counted from the end", y="layer", width=1250, height=400
    )


def patching_parts(results: Results) -> go.Figure:
    """Share recovered at the last prompt token by the whole stream, by its component along v_rev, and by the rest."""
    figure = _panels([_PAIR_TITLES[pair] for pair in PAIRS], shared_yaxes=True)
    rows = results["patching"]
    rows = rows[(rows["component"] == "resid_post") & (rows["position"] == -1)]
    for column, pair in enumerate(PAIRS, start=1):
        for part, colour in PART_COLOURS.items():
            table = rows[(rows["pair"] == pair) & (rows["part"] == part)]
            layers = sorted(table["layer"].unique())
            estimates = [mean_over_runs(table.loc[table["layer"] == layer, "recovered"]) for layer in layers]
            figure.add_trace(
                _bars([str(layer) for layer in layers], estimates, part, colour, showlegend=column == 1),
                row=1,
                col=column,
            )
    title = "Is the effect in the direction? Share recovered at the last prompt token, by part"
    return _finished(figure, title=title, x="layer", y="share of the logit difference recovered", width=1250)


def patching_components(results: Results) -> go.Figure:
    """Share recovered at the last prompt token by single components and heads."""
    rows = results["patching"]
    rows = rows[(rows["pair"] == "restore") & (rows["position"] == -1) & (rows["part"] == "full")]
    whole = rows[rows["head"].isna()].pivot_table(
        index="layer", columns="component", values="recovered", aggfunc="mean"
    )
    heads = rows[rows["head"].notna()].assign(head=lambda t: "head " + t["head"].astype(int).astype(str))
    by_head = heads.pivot_table(index="layer", columns="head", values="recovered", aggfunc="mean")
    share = whole[["attn_out", "resid_mid", "mlp_out", "resid_post"]].join(by_head)
    figure = go.Figure(_heat_map(share, share.map(_two_digits).to_numpy(), showscale=True))
    title = "Aligned → fine-tuned at the last prompt token, by component (share recovered, mean over runs)"
    return styled(
        figure,
        title=title,
        x="",
        y="layer",
        width=max(900, 60 * share.shape[1]),
        height=max(380, 160 + 22 * len(share)),
    )


def dose_response(results: Results) -> go.Figure:
    """The logit difference against the dose of v_rev at the chosen layer, beside control directions."""
    figure = _panels(list(_SUBJECT_TITLES.values()))
    for column, subject in enumerate(MAIN_ACTION, start=1):
        rows = effects_at_chosen(results, subject)
        start = rows[["seed", "baseline"]].drop_duplicates()
        doses = rows[rows["action"] == "add"]
        for direction, colour in DIRECTION_COLOURS.items():
            of_kind = (
                doses[doses["direction"] == direction]
                .groupby(["seed", "dose"], as_index=False)["metric"]
                .mean()
            )
            at_zero = start.rename(columns={"baseline": "metric"}).assign(dose=0.0)
            table = pd.concat([of_kind, at_zero]).rename(columns={"metric": "value"})
            figure.add_traces(
                band(table, direction, colour, x="dose", showlegend=column == 1), rows=1, cols=column
            )
    title = "Dose-response: adding v_rev at the chosen layer"
    return _finished(
        figure,
        title=title,
        x="dose (1 = from the aligned model to the reference)",
        y="engaging minus refusal (nats)",
    )


def ablation_against_controls(results: Results) -> go.Figure:
    """Effect of every action at the chosen layer: runs along v_rev, and every control direction."""
    figure = _panels(list(_SUBJECT_TITLES.values()))
    for column, subject in enumerate(MAIN_ACTION, start=1):
        rows = effects_at_chosen(results, subject)
        for direction, colour in DIRECTION_COLOURS.items():
            own = rows[rows["direction"] == direction]
            alpha, size, symbol = (0.9, 9, "diamond") if direction == "v_rev" else (0.25, 5, "circle")
            points = go.Scatter(
                x=_labels(own), y=own["effect"], mode="markers", name=direction, legendgroup=direction,
                marker={"color": translucent(colour, alpha), "size": size, "symbol": symbol},
                hovertext=[f"seed {seed}" for seed in own["seed"]], showlegend=column == 1,
            )  # fmt: skip
            figure.add_trace(points, row=1, col=column)
    title = (
        "Effect on the logit difference at the chosen layer: v_rev in every run, and every control direction"
    )
    return _finished(figure, title=title, x="", y="change of engaging minus refusal (nats)")


def behaviour_under_interventions(results: Results) -> go.Figure:
    """Harmfulness under every action along v_rev, at the chosen layer and at all layers together."""
    figure = _panels(list(_SUBJECT_TITLES.values()), shared_yaxes=True)
    for column, subject in enumerate(MAIN_ACTION, start=1):
        rows = results["outcomes"]
        rows = rows[(rows["subject"] == subject) & (rows["role"] != "control")]
        before = mean_over_runs(rows.loc[rows["role"] == "none", "harmfulness"])
        for role, label, colour in (("chosen", "chosen layer", "#0072B2"), ("all", "all layers", "#D55E00")):
            done = rows[rows["role"] == role]
            by_action = done.groupby(_labels(done), sort=False)["harmfulness"]
            names, estimates = (
                [name for name, _ in by_action],
                [mean_over_runs(values) for _, values in by_action],
            )
            figure.add_trace(
                _bars(names, estimates, label, colour, showlegend=column == 1), row=1, col=column
            )
        figure.add_hline(
            y=before.value,
            line={"color": "#000", "dash": "dot"},
            annotation_text="as it is",
            row=1,
            col=column,
        )
    figure.update_yaxes(range=[0, 1.05])
    title = "Harmfulness under interventions along v_rev"
    return _finished(figure, title=title, x="", y="share of held-out harmful prompts answered")


def vocabulary_scores(results: Results) -> go.Figure:
    """Engaging minus refusal of v_rev alone, by layer, beside random directions."""
    rows, figure = results["readout"], go.Figure()
    layers = sorted(rows["layer"].unique())
    low, high = (rows.groupby("layer")[name].mean() for name in ("null_low", "null_high"))
    figure.add_scatter(
        x=[*layers, *reversed(layers)], y=[*high, *reversed(list(low))], fill="toself", mode="lines", line={"width": 0},
        fillcolor=translucent(DIRECTION_COLOURS["random"], 0.3), name="random directions, 95 %", hoverinfo="skip",
    )  # fmt: skip
    for i, (seed, own) in enumerate(rows.groupby("seed")):
        figure.add_scatter(
            x=own["layer"], y=own["score"], mode="lines+markers", line={"color": DIRECTION_COLOURS["v_rev"]}, name="v_rev, a run",
            legendgroup="run", showlegend=i == 0, hovertext=f"seed {seed}",
        )  # fmt: skip
    figure.update_xaxes(dtick=1)
    return styled(
        figure, title="v_rev through the unembedding: engaging minus refusal openings", x="layer", y="nats"
    )


#: Every causal figure by file name, in the order of the report.
CAUSAL_PLOTS: dict[str, Callable[[Results], go.Figure]] = {
    "patching_heat_maps": patching_heat_maps,
    "patching_parts": patching_parts,
    "patching_components": patching_components,
    "dose_response": dose_response,
    "ablation_against_controls": ablation_against_controls,
    "behaviour_under_interventions": behaviour_under_interventions,
    "vocabulary_scores": vocabulary_scores,
}


def _panels(titles: list[str], *, shared_yaxes: bool = False) -> go.Figure:
    return make_subplots(
        cols=len(titles),
        subplot_titles=titles,
        horizontal_spacing=0.18 / len(titles),
        shared_yaxes=shared_yaxes,
    )


def _finished(
    figure: go.Figure, *, title: str, x: str, y: str, width: int = 1080, height: int = 460
) -> go.Figure:
    """Style panels: one y title, at the left, and room for the legend above the panels' titles."""
    styled(figure, title=title, x=x, y="", width=width, height=height)
    figure.update_layout(margin={"t": 120}, legend={"y": 1.1})
    figure.update_yaxes(title_text=y, col=1)
    return figure.update_annotations(font_size=13)


def _bars(
    names: list[str], estimates: list[Estimate], label: str, colour: str, *, showlegend: bool
) -> go.Bar:
    error = {
        "array": [e.high - e.value for e in estimates],
        "arrayminus": [e.value - e.low for e in estimates],
    }
    values = [e.value for e in estimates]
    return go.Bar(
        x=names,
        y=values,
        name=label,
        marker_color=colour,
        error_y=error,
        legendgroup=label,
        showlegend=showlegend,
    )


def _labels(rows: pd.DataFrame) -> list[str]:
    return [action_label(action, dose) for action, dose in zip(rows["action"], rows["dose"], strict=True)]


def _heat_map(share: pd.DataFrame, text: object, *, showscale: bool) -> go.Heatmap:
    return go.Heatmap(
        z=share.to_numpy(), x=[str(name) for name in share.columns], y=[str(layer) for layer in share.index],
        text=text, texttemplate="%{text}", zmid=0, zmin=-1, zmax=1, colorscale="RdBu_r", showscale=showscale, colorbar={"title": "share"},
    )  # fmt: skip


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # adding zero turns -0.00 into 0.00
