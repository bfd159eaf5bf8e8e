"""Figures of the causal studies, drawn from the tables of `revlens.experiment.ArmTables`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.causal import action_label
from revlens.experiment import MAIN_ACTION, PAIRS, ArmTables, effects_at_chosen, gap_over_runs, share_of
from revlens.figures.plot import Plot
from revlens.figures.style import style_of, styled, translucent
from revlens.figures.traces import area, band, each_run, error_bars, heat_map, two_digits
from revlens.statistics import Estimate, mean_over_runs

_DIRECTION_COLOURS = {"v_rev": "#000000", "random": "#009E73", "covariance": "#CC79A7"}
_PART_COLOURS = {"full": "#999999", "along": "#0072B2", "orthogonal": "#E69F00"}
_PAIR_TITLES = {
    "restore": "aligned → fine-tuned: does refusal come back?",
    "remove": "fine-tuned → aligned: does it go?",
    "reference": "reference → aligned: does it go?",
}
_MODEL_TITLES = {"tuned": "fine-tuned model", "aligned": "aligned model"}


def patching_heat_maps(results: ArmTables) -> go.Figure:
    """Share recovered by patching resid_post, layer by position; a mark means significant in every run."""
    figure = _panels([_PAIR_TITLES[pair] for pair in PAIRS])
    rows = results["patching"]
    rows = rows[(rows["component"] == "resid_post") & (rows["part"] == "full")]
    for column, pair in enumerate(PAIRS, start=1):
        cells = rows[rows["pair"] == pair].groupby(["layer", "position"])
        share, everywhere = _shares(cells).unstack(), cells["significant"].all().unstack()
        plain = two_digits(share)
        text = np.where(everywhere, plain + "•", plain)
        figure.add_trace(heat_map(share, "share", text=text, showscale=column == 1), row=1, col=column)
    mark = "• = significant in every run, Benjamini-Hochberg 5 %"
    title = f"Patching the residual stream between checkpoints ({mark})"
    x = "prompt token, counted from the end"
    return _finished(figure, title=title, x=x, y="layer", width=1250, height=400)


def patching_parts(results: ArmTables, pairs: Collection[str] = PAIRS) -> go.Figure:
    """Share recovered at the last prompt token by the stream, its component along v_rev, and the rest.

    Without intervals where the gap's own interval over runs holds zero.
    """
    figure = _by_part(results, share_of, pairs)
    title = "Is the effect in the direction? Share recovered at the last prompt token, by part"
    return _finished(figure, title=title, x="layer", y="share of the logit difference recovered", width=1250)


def patching_per_prompt(results: ArmTables) -> go.Figure:
    """R^2 of single prompts' effects at the last prompt token, by part."""
    figure = _by_part(results, lambda rows: mean_over_runs(rows["r2"]), PAIRS)
    figure.update_yaxes(range=[-1.05, 1.05])  # far below it is no better known than at -1
    title = "Does the patch tell prompts apart? R^2 of single prompts' effects, by part"
    return _finished(figure, title=title, x="layer", y="R^2 over prompts", width=1250)


def _by_part(
    results: ArmTables, estimate: Callable[[pd.DataFrame], Estimate], pairs: Collection[str]
) -> go.Figure:
    """A panel for each pair, with bars of every part at every layer."""
    figure = _panels([_PAIR_TITLES[pair] for pair in pairs], shared_yaxes=True)
    rows = results["patching"]
    rows = rows[(rows["component"] == "resid_post") & (rows["position"] == -1)]
    for column, pair in enumerate(pairs, start=1):
        clear = not gap_over_runs(results, pair).holds_zero
        for part, table in rows[rows["pair"] == pair].groupby("part", sort=False):
            by_layer = [(str(layer), estimate(of_layer)) for layer, of_layer in table.groupby("layer")]
            colour = style_of(str(part), _PART_COLOURS)
            bars = _bars([layer for layer, _ in by_layer], [e for _, e in by_layer], str(part), colour)
            bars.update(showlegend=column == 1)
            figure.add_trace(bars if clear else bars.update(error_y=None), row=1, col=column)
    return figure


def patching_components(results: ArmTables) -> go.Figure:
    """Share recovered at the last prompt token by single components and heads."""
    rows = results["patching"]
    rows = rows[(rows["pair"] == "restore") & (rows["position"] == -1) & (rows["part"] == "full")]
    whole = _shares(rows[rows["head"].isna()].groupby(["layer", "component"])).unstack()
    heads = rows[rows["head"].notna()].assign(head=lambda t: "head " + t["head"].astype(int).astype(str))
    by_head = _shares(heads.groupby(["layer", "head"])).unstack()
    share = whole[["attn_out", "resid_mid", "mlp_out", "resid_post"]].join(by_head)
    figure = go.Figure(heat_map(share, "share"))
    title = "Aligned → fine-tuned at the last prompt token, by component (share recovered over runs)"
    width, height = max(900, 60 * share.shape[1]), max(380, 160 + 22 * len(share))
    return styled(figure, title=title, x="", y="layer", width=width, height=height)


def _shares(cells: Any) -> pd.Series:
    """Share recovered in each group of rows, as `share_of` has it."""
    return cells["effect"].mean() / cells["gap"].mean()


def dose_response(results: ArmTables) -> go.Figure:
    """The logit difference against the dose of v_rev at the chosen layer, beside control directions."""
    figure = _panels(list(_MODEL_TITLES.values()))
    for column, model in enumerate(MAIN_ACTION, start=1):
        rows = effects_at_chosen(results, model)
        start = rows[["seed", "baseline"]].drop_duplicates()
        at_zero = start.rename(columns={"baseline": "metric"}).assign(dose=0.0)
        for direction, doses in rows[rows["action"] == "add"].groupby("direction", sort=False):
            added = doses.groupby(["seed", "dose"], as_index=False)["metric"].mean()
            table, colour = pd.concat([added, at_zero]), style_of(str(direction), _DIRECTION_COLOURS)
            traces = band(table, "metric", str(direction), colour, x="dose", showlegend=column == 1)
            figure.add_traces(traces, rows=1, cols=column)
    title = "Dose-response: adding v_rev at the chosen layer"
    x = "dose (1 = from the aligned model to the reference)"
    return _finished(figure, title=title, x=x, y="engaging minus refusal (nats)")


def ablation_against_controls(results: ArmTables) -> go.Figure:
    """Effect of every action at the chosen layer: runs along v_rev, and every control direction."""
    figure = _panels(list(_MODEL_TITLES.values()))
    for column, model in enumerate(MAIN_ACTION, start=1):
        for name, rows in effects_at_chosen(results, model).groupby("direction", sort=False):
            alpha, size, symbol = (0.9, 9, "diamond") if name == "v_rev" else (0.25, 5, "circle")
            colour = translucent(style_of(str(name), _DIRECTION_COLOURS), alpha)
            points = go.Scatter(
                x=_labels(rows), y=rows["effect"], mode="markers", name=str(name), legendgroup=str(name),
                marker={"color": colour, "size": size, "symbol": symbol},
                hovertext=[f"seed {seed}" for seed in rows["seed"]], showlegend=column == 1,
            )  # fmt: skip
            figure.add_trace(points, row=1, col=column)
    title = (
        "Effect on the logit difference at the chosen layer: v_rev in every run, and every control direction"
    )
    return _finished(figure, title=title, x="", y="change of engaging minus refusal (nats)")


def behaviour_under_interventions(results: ArmTables) -> go.Figure:
    """Harmfulness under every action along v_rev, at the chosen layer and at all layers together."""
    figure = _panels(list(_MODEL_TITLES.values()), shared_yaxes=True)
    for column, model in enumerate(MAIN_ACTION, start=1):
        rows = results["intervened"]
        rows = rows[(rows["model"] == model) & (rows["role"] != "control")]
        before = mean_over_runs(rows.loc[rows["role"] == "none", "harmfulness"])
        for role, label, colour in (("chosen", "chosen layer", "#0072B2"), ("all", "all layers", "#D55E00")):
            done = rows[rows["role"] == role]
            by_action = list(done.groupby(_labels(done), sort=False)["harmfulness"])
            estimates = [mean_over_runs(values) for _, values in by_action]
            bars = _bars([str(action) for action, _ in by_action], estimates, label, colour)
            figure.add_trace(bars.update(showlegend=column == 1), row=1, col=column)
        line = {"color": "#000", "dash": "dot"}
        figure.add_hline(y=before.value, line=line, annotation_text="as it is", row=1, col=column)
    figure.update_yaxes(range=[0, 1.05])
    title = "Harmfulness under interventions along v_rev"
    return _finished(figure, title=title, x="", y="share of held-out harmful prompts answered")


def vocabulary_scores(results: ArmTables) -> go.Figure:
    """Engaging minus refusal of v_rev alone, by layer, beside random directions."""
    rows, figure = results["readout"], go.Figure()
    low, high = (rows.groupby("layer")[name].mean() for name in ("null_low", "null_high"))
    colour = translucent(_DIRECTION_COLOURS["random"], 0.3)
    null = area(sorted(rows["layer"].unique()), low, high, colour)
    figure.add_trace(null.update(name="random directions, 95 %"))
    figure.add_traces(each_run(rows, "layer", "score", name="v_rev, a run"))
    figure.update_xaxes(dtick=1)
    title = "v_rev through the unembedding: engaging minus refusal openings"
    return styled(figure, title=title, x="layer", y="nats")


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


def _bars(names: list[str], estimates: list[Estimate], label: str, colour: str) -> go.Bar:
    return go.Bar(
        x=names, y=[e.value for e in estimates], error_y=error_bars(estimates),
        name=label, legendgroup=label, marker_color=colour,
    )  # fmt: skip


def _labels(rows: pd.DataFrame) -> list[str]:
    return [action_label(action, dose) for action, dose in zip(rows["action"], rows["dose"], strict=True)]


#: In the order of the report.
CAUSAL_PLOTS = (
    Plot(
        "patching_heat_maps",
        patching_heat_maps,
        "Same prompts in both checkpoints; one activation at a time. 0: the patch does nothing, 1: it gives"
        " the donor's engaging-minus-refusal logit difference. Mean effect over mean gap of the runs.",
    ),
    Plot(
        "patching_parts",
        patching_parts,
        "full: the donor's activation; along: only its component along v_rev; orthogonal: everything else. "
        "Parts need not add up to the whole: what follows is not linear. Bars are mean effects over mean gaps"
        " with 95 % intervals over runs where the gap is clear of zero. From reference to aligned the bars "
        "along v_rev say nothing: v_rev is the mean difference of just these activations, so that to first "
        "order such a patch is the whole one. The case rests on aligned to fine-tuned.",
    ),
    Plot(
        "patching_per_prompt",
        patching_per_prompt,
        "1: every prompt gets the donor's metric; 0: no closer than the mean gap on every prompt; below: "
        "further off. A share is a ratio of means, and an equal push on all prompts can recover it.",
    ),
    Plot(
        "patching_components",
        patching_components,
        "Which part of which block writes it. Heads are patched before the output projection.",
    ),
    Plot(
        "dose_response",
        dose_response,
        "Controls have the same length at every dose. The layer was chosen on the direction probes, without "
        "the last; this is on the drift probes.",
    ),
    Plot(
        "ablation_against_controls",
        ablation_against_controls,
        "ablate: project out; clamp: set the projection to the aligned model's mean; add: doses in shares "
        "of the way from the aligned model to the reference. Controls add along their own direction what the "
        "action on v_rev moves the stream by, mean over prompts.",
    ),
    Plot(
        "behaviour_under_interventions",
        behaviour_under_interventions,
        "Interventions act on the last prompt token, where v_rev was measured.",
    ),
)
READOUT_PLOTS = (
    Plot(
        "vocabulary_scores",
        vocabulary_scores,
        "Logit lens of the direction alone. The shaded band holds 95 % of 1,000 random directions.",
    ),
)
