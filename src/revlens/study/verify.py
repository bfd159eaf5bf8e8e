"""An audit of a study, as `revlens.experiment.verify` is one of its experiment."""

from __future__ import annotations

from pathlib import Path

from revlens.errors import ResultsError, RevlensError
from revlens.experiment import (
    Difference,
    ExperimentConfig,
    Layout,
    Verification,
    compare_files,
    compare_results,
    key_problem,
)
from revlens.study.claims import assess_study
from revlens.study.layout import StudyLayout
from revlens.study.plan import plan
from revlens.study.run import load_config, made_by
from revlens.study.tables import StudyTables, tabulate


def verify_study(out: Path) -> Verification[StudyTables]:
    """Check every stored byte of a study, then compute its tables and claims again from its records and compare them exactly.

    Nothing is written. Figures and the report are checked by `revlens.figures.verify_study_figures`.

    Args:
        out: the folder of its experiment, which holds a study.

    Raises:
        ResultsError: if the folder holds no experiment that can be read.
    """
    layout, experiment = StudyLayout(out), ExperimentConfig.load(Layout(out).config)
    n_files, differences = compare_files(layout.root)
    counts = {"files": n_files}
    if problem := key_problem(
        experiment, Layout(out)
    ):  # other code: its numbers would say nothing about these
        return Verification((*differences, Difference("key", problem)), counts)
    try:
        config = load_config(layout)
        if config.experiment != experiment:
            raise ResultsError(f"{layout.config} is not a study of the experiment in {out}.")
        tables = tabulate(config, layout)
        claims = assess_study(config, tables)
    except RevlensError as error:
        return Verification(
            (*differences, Difference(str(layout.results), f"cannot be computed again: {error}")), counts
        )
    anchors = [layout.anchor(seed) for seed in experiment.seeds]  # no table tells that one has gone
    differences += [
        Difference(str(path), "is missing; run `revlens study`") for path in anchors if not path.is_file()
    ]
    compared = compare_results(layout.results, tables, claims, made_by(config))
    return Verification(tuple(differences), counts | {"study records": len(plan(config))}, tables).and_also(
        compared
    )
