"""What foretells, early in a benign fine-tune or before it, that a model will answer harmful requests?

The fine-tunes of a study that differ in task and learning rate and have no guard: readings after a few
updates, the first-order score of the first update, which needs no training, and their combination, which is
fitted on other seeds or on other tasks than those it foretells.

python analyses/early_warning.py --study DIR --out DIR    # a study of an organism, some CPU-minutes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import disable_progress_bars
from numpy import ndarray
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import revlens as rl
from _options import fit_v_rev, plain_parser
from revlens.cli.claims import print_claims
from revlens.errors import ConfigError
from revlens.experiment import HARMED, ExperimentConfig, Results, environment
from revlens.figures import areas_figure, draw
from revlens.organism import OrganismConfig
from revlens.results import Claim
from revlens.statistics import Estimate, bootstrap_over_runs
from revlens.storage import write_json

#: Later than this is not early.
LAST_STEP = 20
#: What is read; the first-order score is of the first update.
SINGLE = ("alignment", "fraction", "drift_norm", "kl", "first_order")
#: What is fitted together, and on what: nothing of v_rev, and all of it.
COMBINED = {"drift_norm + kl": ("drift_norm", "kl"), "all": SINGLE}
KEYS = ["seed", "task", "rate"]


def points(study: Results, config: ExperimentConfig) -> pd.DataFrame:
    """A row per fine-tune and early step: what may foretell harm, and whether it came."""
    early = {name: study[name][study[name]["part"] == "early"] for name in ("behaviour", "readings")}
    last = early["behaviour"]
    last = last[last["step"] == last["step"].max()].assign(harmed=lambda rows: rows["harmfulness"] > HARMED)
    is_early = early["readings"]["step"] < min(LAST_STEP + 1, int(last["step"].max()))
    readings = early["readings"][is_early]
    if readings.empty:
        raise ConfigError(f"{study.folder} has no fine-tunes of other tasks and rates to foretell harm in.")
    first = first_orders(config, readings[KEYS].drop_duplicates())
    columns = [*KEYS, "step", "alignment", "fraction", "drift_norm", "kl"]
    return readings[columns].merge(last[[*KEYS, "harmed"]], on=KEYS).merge(first, on=KEYS)


def check_varied(rows: pd.DataFrame) -> None:
    """Check that some fine-tunes are harmed and some are not.

    Raises:
        ConfigError: if not, with their number.
    """
    harmed = rows.drop_duplicates(KEYS)["harmed"]
    if harmed.nunique() < 2:
        raise ConfigError(
            f"{int(harmed.sum())} of {len(harmed)} fine-tunes end with harmfulness above {HARMED}: there is "
            "nothing to foretell. Give a study whose tasks and rates differ more."
        )


def first_orders(config: ExperimentConfig, fine_tunes: pd.DataFrame) -> pd.DataFrame:
    """The fraction that AdamW's first update causes, to first order; it is proportional to the rate."""
    organism = config.subject
    assert isinstance(organism, OrganismConfig), "only an organism has several tasks"
    assert organism.benign is not None
    found = []
    for (seed, task), rows in fine_tunes.groupby(["seed", "task"]):
        subject = organism.with_task(str(task))
        world, history = subject.material(), subject.start(int(seed))
        probes = world.probes()
        v_rev, _ = fit_v_rev(history, probes)
        data = world.benign(organism.benign.steps * organism.benign.batch_size, int(seed))
        update = rl.first_update(
            history.aligned.load(), data, v_rev, probes, organism.benign, seed=int(seed)
        ).adamw
        found.append(rows.assign(first_order=rows["rate"] * float(update.fraction.mean())))
    return pd.concat(found)


def held_out_scores(rows: pd.DataFrame, predictors: Sequence[str], group: str) -> pd.Series:
    """The chance of harm by a logistic regression that has not seen the fine-tune's seed, or its task.

    NaN where the others are all harmed, or none is.
    """
    scores = pd.Series(np.nan, index=rows.index)
    features = rows[list(predictors)]
    for value in rows[group].unique():
        held, others = rows[group] == value, rows[group] != value
        if rows.loc[others, "harmed"].nunique() == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression())
            model.fit(features[others], rows.loc[others, "harmed"])
            scores[held] = model.predict_proba(features[held])[:, 1]
    return scores


def area(
    rows: pd.DataFrame, score: str, *, minus: str | None = None, equal: Sequence[str] = ()
) -> Estimate | None:
    """Area under the ROC curve over fine-tunes; the interval resamples seeds. None where it is not defined.

    Args:
        rows: of one step, with ``harmed``.
        score: a column, higher where harm is expected.
        minus: another one, whose area is subtracted.
        equal: columns in which the two fine-tunes of a compared pair are alike, such as the rate.
    """
    used = rows.dropna(subset=[score] if minus is None else [score, minus])
    by_seed = [own for _, own in used.groupby("seed")]

    def of(pick: ndarray) -> float:
        drawn = pd.concat([by_seed[run] for run in pick])
        own = _area(drawn, score, equal)
        return own if minus is None else own - _area(drawn, minus, equal)

    # NaN leaves a resample out; without a pair in all seeds together there is none in any of them.
    if not by_seed or np.isnan(of(np.arange(len(by_seed)))):
        return None
    return bootstrap_over_runs(of, len(by_seed), label="area")


def _area(rows: pd.DataFrame, score: str, equal: Sequence[str]) -> float:
    """Share of the pairs of a harmed and an unharmed fine-tune in which the harmed one scores higher."""
    wins = pairs = 0.0
    for _, alike in rows.groupby(list(equal)) if equal else [((), rows)]:
        harmed, other = (alike.loc[alike["harmed"] == value, score].to_numpy() for value in (True, False))
        difference = harmed[:, None] - other
        wins += (difference > 0).sum() + 0.5 * (difference == 0).sum()
        pairs += difference.size
    return wins / pairs if pairs else np.nan


def areas(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per step, predictor and kind of pair: the area with its interval."""
    found = []
    for step, of_step in rows.groupby("step"):
        for name in (*SINGLE, *(c for c in of_step if "held out" in c)):
            for pairs, equal in {"all": (), "equal rates": ("rate",), "equal tasks": ("task",)}.items():
                if (estimate := area(of_step, name, equal=equal)) is not None:
                    about = {"step": step, "predictor": name, "pairs": pairs}
                    found.append(
                        about | {"auroc": estimate.value, "low": estimate.low, "high": estimate.high}
                    )
    return pd.DataFrame(found)


def with_combinations(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the scores of every combination, at each step by itself."""
    parts = []
    for _, of_step in rows.groupby("step"):
        scores = {
            f"{name}, {group} held out": held_out_scores(of_step, predictors, group)
            for name, predictors in COMBINED.items()
            for group in ("seed", "task")
        }
        parts.append(of_step.assign(**scores))
    return pd.concat(parts)


def claims(rows: pd.DataFrame) -> list[Claim]:
    """What the design asserts, at the last step."""
    last = rows[rows["step"] == rows["step"].max()]
    asserted: Mapping[str, tuple[str, Estimate | None, float]] = {
        "fraction": (
            "The reversion fraction foretells harm (area under the ROC curve)", area(last, "fraction"), 0.5
        ),
        "first-order": (
            "The first-order score foretells it before any training", area(last, "first_order"), 0.5
        ),
        "fraction-at-equal-rates": (
            "So does the fraction among fine-tunes of equal rates",
            area(last, "fraction", equal=["rate"]),
            0.5,
        ),
        "first-order-at-equal-rates": (
            "So does the first-order score", area(last, "first_order", equal=["rate"]), 0.5
        ),
        "fraction-over-norm": (
            "At equal rates the fraction foretells it better than the drift's norm (difference of areas)",
            area(last, "fraction", minus="drift_norm", equal=["rate"]),
            0.0,
        ),
        "v_rev-adds": (
            "With v_rev's readings a fitted score foretells harm in other seeds better than with drift norm "
            "and KL alone (difference of areas)",
            area(last, "all, seed held out", minus="drift_norm + kl, seed held out"),
            0.0,
        ),
        "v_rev-adds-for-other-tasks": (
            "And in other tasks",
            area(last, "all, task held out", minus="drift_norm + kl, task held out"),
            0.0,
        ),
    }  # fmt: skip
    headlines = ("fraction", "first-order", "v_rev-adds")
    return list(_claims(asserted, headlines))


def _claims(
    asserted: Mapping[str, tuple[str, Estimate | None, float]], headlines: Sequence[str]
) -> Iterator[Claim]:
    for key, (statement, estimate, low) in asserted.items():
        if estimate is not None:
            yield Claim(key, statement, "", estimate, low=low, headline=key in headlines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument(
        "--study", type=Path, required=True, help="a study's output, or a folder of its results"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and the figure")
    args = parser.parse_args()

    disable_progress_bars()
    study = rl.load_results(args.study)
    config = ExperimentConfig.load(args.study / "config.json")
    rows = points(study, config)
    check_varied(rows)
    rows = with_combinations(rows)
    table = areas(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "early_warning.json", {"study": dict(study.provenance)} | environment())
    rows.to_parquet(args.out / "points.parquet", index=False)
    table.to_parquet(args.out / "areas.parquet", index=False)
    draw({"early_warning": areas_figure(table)}, args.out / "figures")
    print(f"{int(rows.groupby(KEYS)['harmed'].first().sum())} of {len(rows.groupby(KEYS))} are harmed")
    print(table.round(3).to_string(index=False))
    print_claims(claims(rows), Console(width=150), every=True)


if __name__ == "__main__":
    main()
