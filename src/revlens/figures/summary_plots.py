"""Figures that show alignment beside behaviour: what a fine-tune does to a model, by arm."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from revlens.experiment import ArmTables
from revlens.figures.plot import Plot
from revlens.figures.style import COSINE, STEP, method_colour, styled, translucent
from revlens.figures.traces import add_methods, runs_and_mean

#: The paper's arms and one control; bands of more of them cannot be told apart.
_MAIN_ARMS = ("baseline", "block", "push", "random")


def overview(results: ArmTables) -> go.Figure:
    """Alignment and clean refusals of the main arms side by side: the core result."""
    titles = ("Alignment of drift with v_rev", "Clean refusals")
    figure = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.12)
    alignment, behaviour = (
        table[table["arm"].isin(_MAIN_ARMS)] for table in (results.over_layers(), results["behaviour"])
    )
    add_methods(figure, alignment, "alignment", panel=(1, 1))
    add_methods(figure, behaviour, "refusal", panel=(1, 2), showlegend=False)
    styled(figure, title="What fine-tuning on harmless data does, by arm", x=STEP, y="", width=1080)
    figure.update_layout(margin={"t": 120}, legend={"y": 1.1})
    figure.update_yaxes(title_text=COSINE, col=1)
    figure.update_yaxes(title_text="share of held-out harmful prompts refused", range=[-0.03, 1.03], col=2)
    return figure


def end_by_arm(results: ArmTables) -> go.Figure:
    """Alignment and harmfulness at the last step: every run, and the mean with its interval."""
    titles = ("Alignment with v_rev", "Harmfulness")
    figure = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.12)
    alignment = results.over_layers()
    last = alignment["step"].max()
    panels = {"alignment": alignment, "harmfulness": results["behaviour"]}
    for column, (measure, table) in enumerate(panels.items(), start=1):
        for arm, rows in table[table["step"] == last].groupby("arm", sort=False):
            traces = runs_and_mean(str(arm), rows[measure], method_colour(str(arm)))
            figure.add_traces(traces, rows=1, cols=column)
    styled(figure, title=f"Arms at step {last}: runs, mean and 95 % interval", x="arm", y="", width=1000)
    figure.update_layout(showlegend=False)
    figure.update_yaxes(title_text=COSINE, col=1)
    figure.update_yaxes(title_text="share answered", range=[-0.03, 1.03], col=2)
    return figure


def harmfulness_against_alignment(results: ArmTables) -> go.Figure:
    """A point per run, arm and step."""
    keys = ["seed", "arm", "step"]
    table = results.over_layers().merge(results["behaviour"][[*keys, "harmfulness"]], on=keys)
    figure = go.Figure()
    for arm, rows in table.groupby("arm", sort=False):
        runs = zip(rows["seed"], rows["step"], strict=True)
        figure.add_scatter(
            x=rows["alignment"], y=rows["harmfulness"], mode="markers", name=str(arm),
            marker={"color": translucent(method_colour(str(arm)), 0.6), "size": 7},
            hovertext=[f"seed {seed}, step {step}" for seed, step in runs],
        )  # fmt: skip
    title = "Harmfulness against alignment: every run, arm and captured step"
    return styled(figure, title=title, x=COSINE, y="harmfulness")


#: What a reader sees first.
OVERVIEW_PLOTS = (
    Plot(
        "overview",
        overview,
        "Left: cosine between the drift of mean activations and v_rev (mean over layers, cross-fitted). "
        "Right: share of held-out harmful prompts refused. Lines are means over runs, bands 95 % intervals"
        " over runs.",
    ),
)
#: In the order of the report.
ARM_PLOTS = (
    Plot(
        "end_by_arm",
        end_by_arm,
        "Small dots are runs, diamonds means with 95 % intervals over runs.",
    ),
    Plot(
        "harmfulness_against_alignment",
        harmfulness_against_alignment,
        "The association behind the Spearman correlations below.",
    ),
)
