"""Rows of the tables `nulls` and `direction`: what chance reaches, and how well v_rev is known."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from revlens.activations import Activations
from revlens.direction import Drift, ReversionDirection, nulls, participation_ratio, reliability


def null_rows(
    activations: Activations,
    motion: Drift,
    v_rev: ReversionDirection,
    *,
    strata: Sequence[str],
    n_draws: int,
    seed: int,
) -> pd.DataFrame:
    """Alignment and reversion fraction of every step, means over layers, against every null."""
    reference, aligned = (activations.at(name, v_rev.split) for name in ("reference", "aligned"))
    tables = []
    for name, null in nulls.NULLS.items():
        columns: dict[str, object] = {"step": motion.steps, "null": name}
        measures = (
            ("alignment", "p99", "exceeds", motion.alignment, None),
            ("fraction", "fraction_p99", "fraction_exceeds", motion.fraction, v_rev.gap),
        )
        for measure, threshold, exceeds, values, gap in measures:
            p99 = null.quantile(
                motion.vectors, reference, aligned, gap=gap, strata=strata, n_draws=n_draws, seed=seed
            )
            columns |= {
                measure: values.mean(-1),
                threshold: p99,
                exceeds: nulls.exceedance(values, p99),
            }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def direction_rows(activations: Activations, v_rev: ReversionDirection) -> pd.DataFrame:
    """Length, reliability and spread over prompts of v_rev at every layer."""
    reference, aligned = (activations.at(name, v_rev.split) for name in ("reference", "aligned"))
    split_half = reliability(reference, aligned)
    return pd.DataFrame(
        {
            "layer": v_rev.layers,
            "gap": v_rev.gap,
            "reference_norm": reference.mean(0).norm(dim=-1),
            "reliability_half": split_half.half,
            "reliability": split_half.full,
            "reliability_low": split_half.low,
            "reliability_high": split_half.high,
            "dimensions_gap": participation_ratio(reference - aligned),
            "dimensions_aligned": participation_ratio(aligned),
        }
    )
