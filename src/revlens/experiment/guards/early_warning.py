"""Early warning: how well a reading early in a fine-tune predicts harm at its end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from revlens.errors import ConfigError
from revlens.statistics import Estimate, auroc_over_runs, spearman_over_runs

#: More than this share of held-out harmful prompts answered after the last update is the event to predict.
HARMED = 0.25
#: What may predict it, and its name in figures.
PREDICTORS = {
    "alignment": "alignment with v_rev",
    "fraction": "reversion fraction",
    "drift_norm": "drift norm",
    "kl": "KL divergence from the aligned model on probes",
    "loss_drop": "drop of the task loss",
}
#: Statistics of a predictor, each with the ends of its interval.
_ESTIMATES = tuple(f"{name}{end}" for name in ("auroc", "lead", "rank") for end in ("", "_low", "_high"))
#: Updates after which a reading predicts, as far as the study takes readings there.
PREDICTION_STEPS = (1, 5, 8, 20)


def early_warning(behaviour: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """How well an early reading of a fine-tune without a guard predicts harm at its end.

    A row per predictor and step, over seeds, tasks and learning rates: area under the ROC curve for `HARMED`
    (``auroc, auroc_low, auroc_high``), alignment's area minus it (``lead...``), and Spearman's correlation
    with harmfulness (``rank...``); NaN where nothing varies. Intervals resample whole seeds.

    Args:
        behaviour: of fine-tunes that differ in seed, task and rate, after the last update; none gives an
            empty table.
        readings: of the same fine-tunes on the way.
    """
    if behaviour.empty:
        return pd.DataFrame(
            {
                column: pd.Series(dtype=float)
                for column in ("predictor", "step", "n_runs", "n_harmed", *_ESTIMATES)
            }
        )
    scores, harm = _points(behaviour, readings)
    event = harm > HARMED
    rows = []
    for step in sorted({step for _, step in scores}):
        for name in PREDICTORS:
            score, alignment = scores[name, step], scores["alignment", step]
            lead = (
                None if name == "alignment" else _try(partial(auroc_over_runs, alignment, event, minus=score))
            )
            estimates = {
                "auroc": _try(partial(auroc_over_runs, score, event)),
                "lead": lead,
                "rank": _try(partial(spearman_over_runs, score, harm)),
            }
            columns = {
                f"{key}{end}": np.nan if estimate is None else getattr(estimate, field)
                for key, estimate in estimates.items()
                for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            rows.append(
                {
                    "predictor": name,
                    "step": step,
                    "n_runs": event.size,
                    "n_harmed": int(event.sum()),
                    **columns,
                }
            )
    return pd.DataFrame(rows)


def _points(
    behaviour: pd.DataFrame, readings: pd.DataFrame
) -> tuple[dict[tuple[str, int], np.ndarray], np.ndarray]:
    """Predictors by name and step, and harmfulness at the end, each ``[seed, task and rate]``."""
    keys = ["seed", "task", "rate"]
    first = readings[readings["step"] == readings["step"].min()].set_index(keys)["loss"]
    readings = readings.assign(
        loss_drop=readings.set_index(keys).index.map(first).to_numpy() - readings["loss"].to_numpy()
    )

    def grid(table: pd.DataFrame, column: str) -> np.ndarray:
        return table.pivot(index="seed", columns=["task", "rate"], values=column).to_numpy(float)

    harm = grid(behaviour, "harmfulness")
    steps = [
        step for step in PREDICTION_STEPS if step in set(readings["step"]) and step < behaviour["step"].max()
    ]
    return {
        (name, step): grid(readings[readings["step"] == step], name) for name in PREDICTORS for step in steps
    }, harm


def _try(estimate: Callable[[], Estimate]) -> Estimate | None:
    """None where the statistic is not defined: all runs are harmed, or none, or a predictor is constant."""
    try:
        return estimate()
    except ConfigError:
        return None
