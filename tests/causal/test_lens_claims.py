"""The claims of what v_rev is made of tell an effect from its opposite, and leave the last layer out."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

import _lens_claims
from _lens_claims import claims

SEEDS, LAYERS, NULLS = range(5), range(3), ("isotropic", "covariance")


def tables(effect: float) -> dict[str, pd.DataFrame]:
    """Tables in which every lens says the same, of a size and a sign; the last layer says the opposite."""

    def sized(seed: int, layer: int) -> float:
        return (effect if layer < max(LAYERS) else -9 * effect) * (1 + seed / 10)

    cells = [(seed, layer, sized(seed, layer)) for seed, layer in itertools.product(SEEDS, LAYERS)]
    beside: list[dict[str, Any]] = [
        {"seed": seed, "layer": layer, "null": null, "size": size, "null_mean": 0.2, "null_high": 0.5}
        for (seed, layer, size), null in itertools.product(cells, NULLS)
    ]
    return {
        "stream": pd.DataFrame(
            # Only the last layer counts here.
            {"seed": seed, "layer": layer, "checkpoint": name, "refusal": refusal}
            for seed, layer, size in cells
            for name, refusal in (("reference", 0), ("aligned", -size), ("step-1", 0.5), ("step-9", 0.0))
        ),
        "drift_parts": pd.DataFrame(
            row | {"part": part, "effect": share * row["size"]}
            for row in beside
            for part, share in {"drift": 1.0, "along": 0.8 if effect > 0 else 0.2}.items()
        ),
        "scores": pd.DataFrame(
            row
            | {"lens": lens, "direction": direction, "score": (2 if lens == "jacobian" else 1) * row["size"]}
            for row in beside
            for lens, direction, _ in _lens_claims._READ
        ),
        "arrival": pd.DataFrame(row | {"direction": "v_rev", "length": row["size"]} for row in beside),
        "explained": pd.DataFrame(
            row | {"direction": "v_rev", "side": side, "explained": row["size"] * sign}
            for row in beside
            for side, sign in {"for": 1, "against": -1}.items()
        ),
        "fidelity": pd.DataFrame(
            {"seed": seed, "layer": layer, "lens": lens, "said": size, "unpatched": 0.1}
            for seed, layer, size in cells
            for lens in ("chat", "identity")
        ),
        "features": pd.DataFrame(
            row
            | {
                "direction": "v_rev",
                "dictionary": "MLP neurons",
                "rank": 1,
                "p": 0.01 if row["size"] > 0 else 0.9,
            }
            for row in beside
        ),
    }


def test_an_effect_supports_every_claim_and_its_opposite_contradicts_it() -> None:
    supported, contradicted = claims(tables(1.0)), claims(tables(-1.0))
    assert {claim.verdict for claim in supported} == {"supported"}
    assert {claim.verdict for claim in contradicted} == {"contradicted"}
    assert [claim.key for claim in supported if claim.headline] == [
        "stream:falls",
        "jacobian:v_rev",
        "jacobian:turned",
    ]
    assert len({claim.key for claim in supported}) == len(supported)
