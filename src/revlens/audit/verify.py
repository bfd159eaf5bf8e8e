"""One audit of an output folder, whatever the plan of its experiment."""

from __future__ import annotations

from pathlib import Path

from revlens.audit.configuration import compare_configuration
from revlens.audit.difference import Difference, Verification
from revlens.audit.drawings import compare_figures, compare_report
from revlens.audit.files import compare_activations, compare_files
from revlens.audit.records import compare_claims, compare_provenance
from revlens.audit.tables import compare_tables
from revlens.errors import RevlensError
from revlens.experiment import ExperimentConfig, assess, provenance, tabulate
from revlens.figures import REPORTS, draw_all
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
    config = ExperimentConfig.load(layout.config)
    configuration = compare_configuration(config, layout)
    found = configuration.and_also(
        compare_files(layout.runs, layout.results, layout.figures, layout.report)
    ).and_also(compare_activations(sorted(layout.runs.glob("*/*/activations"))))
    if configuration.differences:  # other code, or another experiment: its numbers say nothing about these
        return found
    try:
        tables = tabulate(config, layout)
        claims = assess(config, tables)
    except RevlensError as error:
        problem = Difference(str(layout.results), f"cannot be computed again: {error}")
        return found.and_also(Verification((problem,), {}))
    made_by, report = provenance(config), REPORTS[config.plan.name]
    figures = draw_all(report, tables) if layout.figures.is_dir() or layout.report.is_file() else {}
    for comparison in (
        compare_tables(layout.results, tables),
        compare_claims(layout.results / "claims.json", claims, tables.verb),
        compare_provenance(layout.results / "provenance.json", made_by, tables.verb),
        compare_figures(layout.figures, figures),
        compare_report(layout.report, report, config, tables, claims, made_by, figures),
    ):
        found = found.and_also(comparison)
    return found
