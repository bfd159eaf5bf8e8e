"""The plans of an experiment and their stages, one record each.

Records name modules and do not import them, so that the command line reads them at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"revlens.experiment.{name}")


@dataclass(frozen=True)
class Stage:
    """One step of an experiment, repeated for every unit of its kind.

    A stage reads what earlier ones left on disk, writes whole files only, and does not repeat what is there.

    Attributes:
        name: the verb of the command line.
        summary: what it does, for ``--help``.
        of: the kind of unit that it works on, see `revlens.experiment.units`.
        where: its module below `revlens.experiment`. That has ``work(config, layout, unit, tick)``, which
            does it for one unit, and ``n_ticks(config, unit)``: how often ``work`` calls ``tick``.
        leaves: from the folder's `revlens.results.Layout` and a unit, what is there once it is done.
    """

    name: str
    summary: str
    of: Literal["start", "direction", "fine-tune", "judged", "causal"]
    where: str
    leaves: Callable[[Any, Any], tuple[Path, ...]]

    @property
    def module(self) -> ModuleType:
        """The module that does the work."""
        return _module(self.where)


@dataclass(frozen=True)
class Plan:
    """What an experiment does with its subject.

    Attributes:
        verb: of the command line, which runs all of it.
        summary: what that is, for ``--help``.
        where: its folder below `revlens.experiment`. Its module ``tables`` has ``tabulate(config, layout)``,
            which makes the tables from what the stages left on disk; ``load(folder)``, which reads stored
            ones; ``JUDGED``, which names tables of measures with those of their replies; and
            ``with_derived(tables)``, which adds the tables that follow from others. Its module ``claims`` has
            ``assess(config, tables)``, which gives the claims in the order of the report.
        stages: in order.
    """

    verb: str
    summary: str
    where: str
    stages: tuple[Stage, ...]

    @property
    def tables(self) -> ModuleType:
        """The module that makes the tables."""
        return _module(f"{self.where}.tables")

    @property
    def claims(self) -> ModuleType:
        """The module that assesses the claims."""
        return _module(f"{self.where}.claims")


_HISTORY = Stage(
    "history",
    "train the reference and the aligned model of every seed, and locate v_rev",
    "start",
    "history",
    lambda layout, start: (layout.start_behaviour(start.seed), layout.v_rev(start.seed)),
)

#: By the name of the plan in a configuration.
PLANS: Mapping[str, Plan] = {
    "arms": Plan(
        "reproduce",
        "everything on the paper's arms: all stages, results, figures and the report",
        "arms",
        (
            _HISTORY,
            Stage(
                "finetune",
                "fine-tune every arm from the aligned model",
                "fine-tune",
                "arms.finetune",
                lambda layout, arm: (layout.losses(arm.seed, arm.label),),
            ),
            Stage(
                "capture",
                "capture activations at every checkpoint",
                "fine-tune",
                "arms.capture",
                lambda layout, arm: (layout.activations(arm.seed, arm.label),),
            ),
            Stage(
                "behaviour",
                "generate and judge at every checkpoint",
                "judged",
                "arms.behaviour",
                lambda layout, arm: (layout.behaviour(arm.seed, arm.label),),
            ),
            Stage(
                "causal",
                "patch between checkpoints, intervene along v_rev and read it out",
                "causal",
                "arms.causality",
                lambda layout, baseline: (layout.causal(baseline.seed),),
            ),
        ),
    ),
    "guards": Plan(
        "study",
        "compare guards: strengths, cost, routes, longer runs, early warning (hours on the whole organism)",
        "guards",
        (
            _HISTORY,
            Stage(
                "directions",
                "of a study: locate v_rev between other checkpoints",
                "direction",
                "guards.directions",
                lambda layout, other: (layout.other_v_rev(other.seed, other.source),),
            ),
            Stage(
                "finetune",
                "of a study: fine-tune with every guard, watched and judged on the way",
                "fine-tune",
                "guards.finetune",
                lambda layout, fine_tune: (layout.record(fine_tune.seed, fine_tune.label),),
            ),
        ),
    ),
}
