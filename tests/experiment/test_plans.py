"""The registry of plans and stages is complete: each can be run, tabulated, drawn and called."""

from __future__ import annotations

import inspect

import pytest

from revlens.cli import main
from revlens.experiment import PLANS, ExperimentConfig, Guards
from revlens.experiment.engine import tasks, units
from revlens.experiment.plans import Stage
from revlens.figures import REPORTS
from revlens.results import Tables
from revlens.sweeps import Resources

CONFIGS = {
    config.plan.name: config
    for config in (ExperimentConfig(), ExperimentConfig(plan=Guards.of(ExperimentConfig())))
}
STAGES = [
    pytest.param(name, stage, id=f"{name}-{stage.name}")
    for name, plan in PLANS.items()
    for stage in plan.stages
]

VERBS = sorted({verb for plan in PLANS.values() for verb in (plan.verb, *(s.name for s in plan.stages))})


def test_every_plan_of_a_configuration_has_a_record_and_a_report() -> None:
    assert CONFIGS.keys() == PLANS.keys() == REPORTS.keys()


@pytest.mark.parametrize(
    ("plan", "stage"),
    [
        pytest.param(name, stage, id=f"{name}-{stage.name}")
        for name, plan in PLANS.items()
        for stage in plan.stages
    ],
)
def test_a_stage_has_a_module_that_works_on_units_of_its_plan(plan: str, stage: Stage) -> None:
    assert list(inspect.signature(stage.module.work).parameters)[::3] == ["config", "tick"]
    concerned = [unit for unit in units(CONFIGS[plan]) if stage.of in unit.kinds]
    assert concerned
    assert all(stage.module.n_ticks(CONFIGS[plan], unit) > 0 for unit in concerned)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_tables_and_claims(name: str) -> None:
    plan = PLANS[name]
    assert callable(plan.tables.tabulate)
    assert callable(plan.claims.assess)
    (kind,) = (
        value
        for value in vars(plan.tables).values()
        if isinstance(value, type) and issubclass(value, Tables) and value is not Tables
    )
    assert plan.tables.load == kind.load


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_has_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"usage: revlens {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("name", PLANS)
def test_every_unit_has_a_task_of_its_own_that_waits_for_what_it_needs(name: str, tmp_path: object) -> None:
    config = CONFIGS[name]
    sweep = tasks(config, tmp_path, None, Resources())  # type: ignore[arg-type]
    by_name = {task.name: task for task in sweep}
    assert len(by_name) == len(sweep) == len(units(config))
    done: set[str] = set()
    for task in sweep:  # in the order in which they are listed, nothing waits for a later one
        assert set(task.after) <= done
        done.add(task.name)
