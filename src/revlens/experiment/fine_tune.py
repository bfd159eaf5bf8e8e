"""One fine-tune of an experiment: the unit that plans list, tasks train and tables describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from revlens.subject import CAPTURE_STEPS


@dataclass(frozen=True)
class FineTune:
    """One benign fine-tune of one seed, by itself or with a guard.

    Fine-tunes of one seed start from the same model (``start``); those of equal ``horizon`` and ``task`` see
    the same data in the same order. So they differ in what is named here and in nothing else.

    Attributes:
        seed: of the start, of the data and their order.
        label: unique among the fine-tunes of its seed, and fit for a folder's name.
        marks: updates after which the model is looked at, increasing; the last one ends the fine-tune.
        horizon: updates for which data are drawn, at least the last mark.
        part: which part of its plan it belongs to; empty where a plan has one part only.
        method: one of `revlens.training.METHODS`.
        strength: see the method; None where there is nothing to choose.
        until: updates after which the guard is switched off; None for never.
        task: the benign task, one of the subject's ``tasks``; empty for the subject's own.
        rate: learning rate in multiples of the recipe's.
        direction: where v_rev comes from: ``own``, or one of the subject's ``other_histories``.
        route: whether its route is measured at its end, against the seed's baseline; see
            `revlens.experiment.guards.route`.
        control: the control of block that it gets in place of block, matched with it; needs the seed's
            baseline. One of `revlens.experiment.arms.controls.CONTROLS`.
        start: the model that it starts from. The reference's own drift tells what the task alone does.
        causal: whether causality is tested on its models.
    """

    seed: int
    label: str
    marks: tuple[int, ...]
    horizon: int
    part: str = ""
    method: str = "baseline"
    strength: float | None = None
    until: int | None = None
    task: str = ""
    rate: float = 1.0
    direction: str = "own"
    route: bool = False
    control: str | None = None
    start: Literal["aligned", "reference"] = "aligned"
    causal: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of unit that it counts as; a stage works on one kind."""
        if self.start == "reference":
            return ("fine-tune",)
        baseline = ["baseline"] if self.method == "baseline" else []
        return ("fine-tune", "judged", *baseline, *(["causal"] if self.causal else []))

    @property
    def name(self) -> str:
        """Unique in an experiment."""
        return f"seed {self.seed}, {self.label}"

    @property
    def steps(self) -> int:
        """Optimizer updates."""
        return self.marks[-1]

    @property
    def readings(self) -> tuple[int, ...]:
        """Updates after which a watched fine-tune is read: the dense early ones and its marks."""
        return tuple(sorted({step for step in CAPTURE_STEPS if step <= self.steps} | set(self.marks)))

    @property
    def leaves_clamp_mean(self) -> bool:
        """Whether the route of others is measured against this one, which is then trained first."""
        return self.route and self.method == "baseline"
