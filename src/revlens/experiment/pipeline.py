"""From finished runs to results on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from revlens.errors import ResultsError
from revlens.experiment.causal_claims import assess_causality
from revlens.experiment.claims import Claim, assess, save
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.provenance import provenance
from revlens.experiment.results import Results, analyse
from revlens.results import Layout, Tables
from revlens.storage import atomic_directory, needed, write_json


def assess_all(results: Results) -> list[Claim]:
    """Every claim, in the order of the report."""
    return [*assess(results), *assess_causality(results)]


def analyse_and_save(out: Path) -> tuple[Results, list[Claim]]:
    """Write the tables, claims.json and provenance.json of an experiment whose stages have all been run.

    Raises:
        ResultsError: if the folder holds no experiment, its configuration has changed or is of other versions of code, a stage is
            missing for some seed and arm, or a file is damaged.
    """
    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    if problem := key_problem(config, layout):
        raise ResultsError(problem)
    results = analyse(config, layout)
    claims = assess_all(results)
    save_results(layout.results, results, claims, provenance(config))
    return results, claims


def save_results(folder: Path, tables: Tables, claims: list[Claim], made_by: dict[str, Any]) -> None:
    """Replace a results folder by tables, claims.json and provenance.json, all of them listed."""
    with atomic_directory(folder) as partial:
        save(claims, partial / "claims.json")
        write_json(partial / "provenance.json", made_by)
        tables.save(partial)  # last: it lists the others too


def key_problem(config: ExperimentConfig, layout: Layout) -> str | None:
    """Why the folder's key is not that of its configuration, in a sentence; None if it is."""
    key = needed(layout.key, "history").read_bytes()
    if key == config.key().encode():
        return None
    return (
        f"{layout.config} and {layout.key} do not go together: one of them has changed, or {layout.out} was made by other versions of "
        "revlens, torch, transformers or tokenizers. Restore them, or choose another --out."
    )
