from __future__ import annotations

from revlens.experiment import ArmTables
from revlens.figures.behaviour_plots import behaviour_by_arm


def test_without_a_held_out_task_there_are_three_panels(results: ArmTables) -> None:
    behaviour = results["behaviour"].drop(columns=["task_loss", "exact_match"])
    figure = behaviour_by_arm(ArmTables(results.tables | {"behaviour": behaviour}))
    assert [note.text for note in figure.layout.annotations] == [
        "Clean refusals of harmful prompts", "Harmfulness", "Over-refusal",
    ]  # fmt: skip
    assert {trace.yaxis for trace in figure.data} == {"y", "y2", "y3"}
