"""The claims of the arms."""

from __future__ import annotations

from revlens.experiment.arms.causal_claims import assess_causality
from revlens.experiment.arms.paper_claims import assess_paper
from revlens.experiment.arms.tables import ArmTables
from revlens.experiment.config import ExperimentConfig
from revlens.results import Claim, headline_first


def assess(config: ExperimentConfig, results: ArmTables) -> list[Claim]:
    """Every claim that the tables allow: the headline claims, then the paper's, then those on causality."""
    last = config.steps[-1]
    headline = (
        f"fraction-{last}",
        f"alignment-{last}",
        "refusal-falls",
        "block-refusal",
        "block-beats-random",
    )
    return headline_first([*assess_paper(results), *assess_causality(results)], headline)
