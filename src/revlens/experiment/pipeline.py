"""From finished runs to results on disk."""

from __future__ import annotations

from pathlib import Path

from revlens.atomic import write_json
from revlens.experiment.causal_claims import assess_causality
from revlens.experiment.claims import Claim, assess, save
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.layout import Layout
from revlens.experiment.provenance import provenance
from revlens.experiment.results import Results, analyse


def assess_all(results: Results) -> list[Claim]:
    """Every claim, in the order of the report."""
    return [*assess(results), *assess_causality(results)]


def analyse_and_save(out: Path) -> tuple[Results, list[Claim]]:
    """Write the tables, claims.json and provenance.json of an experiment whose stages have all been run.

    Raises:
        ResultsError: if the folder holds no experiment, or a stage is missing for some seed and arm.
    """
    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    results = analyse(config, layout)
    claims = assess_all(results)
    results.save(layout.results)
    save(claims, layout.results / "claims.json")
    write_json(layout.results / "provenance.json", provenance(config))
    return results, claims
