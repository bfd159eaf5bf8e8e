"""The claims of the arms."""

from __future__ import annotations

from revlens.experiment.arms.causal_claims import assess_causality
from revlens.experiment.arms.paper_claims import assess_paper
from revlens.experiment.arms.tables import ArmTables
from revlens.experiment.config import ExperimentConfig
from revlens.results import Claim


def assess(config: ExperimentConfig, results: ArmTables) -> list[Claim]:
    """Every claim that the tables allow, the paper's first."""
    return [*assess_paper(results), *assess_causality(results)]
