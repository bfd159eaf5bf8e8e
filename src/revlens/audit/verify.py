"""One audit of an output folder, whatever was run in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from revlens.audit.configuration import compare_configuration
from revlens.audit.difference import Difference, Verification
from revlens.audit.drawings import compare_figures, compare_report
from revlens.audit.files import compare_files
from revlens.audit.plans import PLANS, Plan
from revlens.audit.records import compare_claims, compare_provenance
from revlens.audit.tables import compare_tables
from revlens.errors import RevlensError
from revlens.experiment import ExperimentConfig
from revlens.figures import REPORTS, Report
from revlens.results import Layout


def verify(out: Path) -> Verification:
    """Compare every stored byte with its checksum, and every table, claim and figure with a new computation.

    Nothing is written.

    Args:
        out: the output folder of an experiment whose stages and analysis have been run.

    Raises:
        ResultsError: if the folder holds no experiment that can be read.
    """
    layout = Layout(out)
    found = compare_configuration(ExperimentConfig.load(layout.config), layout)
    is_ours = not found.differences
    for name, plan in PLANS.items():
        if plan.is_in(out):
            found = found.and_also(_verify_plan(plan, REPORTS[name], out, is_ours=is_ours))
    return found


def _verify_plan(plan: Plan, report: Report[Any, Any], out: Path, *, is_ours: bool) -> Verification:
    """What one plan has left in a folder; bytes only, where other code or another experiment made it."""
    layout = plan.layout(out)
    found = compare_files(*plan.files(layout))
    try:
        config = plan.load(out)
        found = found.and_also(plan.left_by_runs(config, layout))
        if not is_ours:  # its numbers would say nothing about these
            return found
        tables = plan.tabulate(config, layout)
        claims, provenance = plan.assess(config, tables), plan.provenance(config)
    except RevlensError as error:
        problem = Difference(str(layout.results), f"cannot be computed again: {error}")
        return found.and_also(Verification((problem,), {}))
    for comparison in (
        compare_tables(layout.results, tables),
        compare_claims(layout.results / "claims.json", claims, tables.verb),
        compare_provenance(layout.results / "provenance.json", provenance, tables.verb),
        compare_figures(layout.figures, report, tables, plan.drawn_by),
        compare_report(layout.report, report, config, tables, claims, provenance),
    ):
        found = found.and_also(comparison)
    return found
