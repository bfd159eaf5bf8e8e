"""From finished stages to results on disk."""

from __future__ import annotations

from pathlib import Path

from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.plans import PLANS
from revlens.experiment.provenance import provenance
from revlens.results import Claim, Layout, Tables, save_results
from revlens.storage import needed


def tabulate(config: ExperimentConfig, layout: Layout) -> Tables:
    """All tables of an experiment, from what its stages left on disk.

    Raises:
        ResultsError: if a stage has not been run for some seed or fine-tune, or a file that it left is
            damaged.
    """
    tables: Tables = PLANS[config.plan.name].tables.tabulate(config, layout)
    return tables


def load_tables(config: ExperimentConfig, layout: Layout) -> Tables:
    """The stored tables of an experiment.

    Raises:
        ResultsError: naming the first table that is missing or damaged.
    """
    tables: Tables = PLANS[config.plan.name].tables.load(layout.results)
    return tables


def assess(config: ExperimentConfig, tables: Tables) -> list[Claim]:
    """Every claim that the tables of an experiment allow, in the order of the report."""
    claims: list[Claim] = PLANS[config.plan.name].claims.assess(config, tables)
    return claims


def analyse_and_save(out: Path) -> tuple[Tables, list[Claim]]:
    """Write the tables, claims.json and provenance.json of an experiment whose stages have all been run.

    Raises:
        ResultsError: if the folder holds no experiment, its configuration has changed or is of other versions
            of code, a stage is missing for some seed or fine-tune, or a file is damaged.
    """
    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    if problem := key_problem(config, layout):
        raise ResultsError(problem)
    tables = tabulate(config, layout)
    claims = assess(config, tables)
    save_results(layout.results, tables, claims, provenance(config))
    return tables, claims


def key_problem(config: ExperimentConfig, layout: Layout) -> str | None:
    """Why the folder's key is not that of its configuration, in a sentence; None if it is."""
    key = needed(layout.key, "history").read_bytes()
    if key == config.key().encode():
        return None
    return (
        f"{layout.config} and {layout.key} do not go together: one of them has changed, or {layout.out} was "
        "made by other "
        "versions of revlens, torch, transformers or tokenizers. Restore them, or choose another --out."
    )
