"""Claims about what behaviour goes with: the paper's correlation, within arms, without guards, and rivals."""

from __future__ import annotations

from collections.abc import Iterator

from revlens.experiment.arms.association import association_estimate
from revlens.experiment.arms.tables import ArmTables
from revlens.results import Claim

#: The paper's correlation of harmfulness with alignment.
PAPERS_SPEARMAN = "0.958"
_SAYS = {
    "all": "across arms and steps",
    "within arms": "within each arm (mean over arms)",
    "unguarded": "in unguarded runs",
}


def association_claims(results: ArmTables) -> Iterator[Claim]:
    """On harmfulness; none where a correlation is not defined, as without any harm."""
    table = results["association"]
    rows = table[table["outcome"] == "harmfulness"].set_index(["predictor", "scope"])
    for scope, where in _SAYS.items():
        for predictor, word in (("alignment", "alignment"), ("fraction", "the reversion fraction")):
            # Across arms the paper's own quantity is enough: the others are in the table.
            if predictor == "fraction" and scope == "all":
                continue
            estimate = association_estimate(rows.loc[predictor, scope], "spearman")
            if estimate is not None:
                key = "association" + ("" if scope == "all" else f"-{predictor}-{scope.replace(' ', '-')}")
                statement = f"Harmfulness goes with {word} {where} (Spearman, runs resampled whole)"
                yield Claim(key, statement, PAPERS_SPEARMAN if scope == "all" else "", estimate, low=0.0)
    lead = association_estimate(rows.loc["drift_norm", "all"], "lead")
    if lead is not None:
        statement = (
            "Harmfulness goes with alignment more closely than with how far the model has drifted in any "
            "direction (Spearman with alignment minus with the drift's norm, across arms and steps)"
        )
        yield Claim("association-lead", statement, "", lead, low=0.0)
