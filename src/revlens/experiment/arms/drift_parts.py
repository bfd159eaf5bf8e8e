"""The parts of a drift, each along v_rev: what is specific to harm, and what the task does to any model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from revlens.activations import Activations
from revlens.direction import Drift, ReversionDirection, drift

#: Every part, and its name in figures. harmful is the drift that claims are about.
PARTS = {
    "harmful": "harmful prompts",
    "harmless": "harmless prompts",
    "separation": "harmful minus harmless",
    "reference": "the reference trained on the same updates, harmful prompts",
}


def drift_parts(activations: Activations, v_rev: ReversionDirection, harmful: Drift) -> pd.DataFrame:
    """A row per part, step and layer: drift on harmful and on harmless prompts, and of their separation.

    If harmless prompts move as far back, that part of the reversion is not specific to harm.

    Args:
        activations: of a captured history.
        v_rev: estimated on the same layers.
        harmful: the drift on harmful prompts.
    """
    harmless = drift(activations, v_rev, "harmless")
    parts = {"harmful": harmful, "harmless": harmless, "separation": harmful.minus(harmless, v_rev)}
    return pd.concat([along_rows(motion).assign(part=name) for name, motion in parts.items()])


def reference_part(activations: Activations, v_rev: ReversionDirection) -> pd.DataFrame:
    """The same rows of a history whose fine-tune starts from the reference: what the task alone does."""
    return along_rows(drift(activations, v_rev)).assign(part="reference", arm="baseline")


def along_rows(motion: Drift) -> pd.DataFrame:
    """A row per step and layer of a drift: alignment, displacement and fraction."""
    columns = {
        "alignment": motion.alignment,
        "displacement": motion.displacement,
        "fraction": motion.fraction,
    }
    return grid(motion, {name: values.numpy() for name, values in columns.items()})


def grid(motion: Drift, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row per step and layer, steps outermost, as ``[step layer]`` arrays flatten."""
    index = pd.MultiIndex.from_product([motion.steps, motion.layers], names=["step", "layer"]).to_frame(
        index=False
    )
    return index.assign(**{name: values.ravel() for name, values in columns.items()})
