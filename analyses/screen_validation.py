"""Do the rows that screening ranks first take the model further back than those that it ranks last?

The embedded organism's own benign rows are screened and divided into thirds by each score. Fine-tunes on
the first, the last and a random third have equal rows, updates and order seeds. Beside them a few harmful
requests with the reference's answers are screened: does a score find them?

python analyses/screen_validation.py --out DIR            # five seeds, about 2.5 CPU-minutes each
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from rich.console import Console

import revlens as rl
from _options import fit_v_rev, plain_parser
from revlens.behaviour import generate, judge_replies
from revlens.cli.claims import print_claims
from revlens.organism import OrganismConfig
from revlens.results import Claim
from revlens.statistics import Estimate, auroc_over_runs, mean_over_runs, spearman_over_runs
from revlens.training import finetune

N_ROWS, N_PLANTED = 800, 48
#: Steps at which drift is read and replies are judged; the last one ends a fine-tune.
STEPS = (20, 50)
#: The scores by which rows are divided: ours, the primary one first, and the rival of the literature.
DIVIDING = ("adamw", "sgd", "projection_difference")
#: From the rows that should take the model back least to those that should most.
THIRDS = ("bottom", "random", "top")
_SCORES = ("adamw", "sgd", "projection_difference", "gradient_norm", "loss", "answer_tokens", "similarity")
_KEYS = ["seed", "score", "third", "step"]


def run(seed: int, n_rows: int, n_planted: int, steps: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores of the rows of one seed, and what fine-tunes on thirds of them do."""
    config = OrganismConfig()
    world, history = config.material(), config.start(seed)
    probes = world.probes()
    v_rev, _ = fit_v_rev(history, probes)
    benign, planted = world.benign(n_rows, seed), _harmful(world.refusals(n_planted, seed), history)
    table = rl.screen(
        history.aligned.load(),
        concatenate_datasets([benign, planted]),
        v_rev,
        probes,
        config.benign,
        adamw=True,
    )
    rows = table.drop(columns=["prompt", "answer"]).assign(seed=seed, planted=table["row"] >= n_rows)
    own = rows[~rows["planted"]]
    before = rl.read_prompts(history.aligned.load(), probes["drift"]).mean(0).double()

    def outcomes(score: str, third: str, chosen: Sequence[int]) -> Iterator[dict[str, object]]:
        model = history.aligned.load()
        read: list[dict[str, object]] = []

        def after(step: int, loss: float) -> None:
            if step in steps:
                moved = rl.read_prompts(model, probes["drift"]).mean(0).double() - before
                drift = rl.Drift.along(moved[None], v_rev, (step,))
                prompts = probes["behaviour"]
                replies = judge_replies(world.judge(), prompts, generate(model, prompts, max_new_tokens=32))
                read.append(
                    {
                        "seed": seed,
                        "score": score,
                        "third": third,
                        "step": step,
                        "fraction": float(drift.fraction.mean()),
                        "alignment": float(drift.alignment.mean()),
                        "refusals": replies.count("refusal") / len(replies),
                        "compliance": replies.count("compliance") / len(replies),
                        "loss": loss,
                    }
                )

        finetune(model, benign.select(chosen), _schedule(config, steps), seed=seed, on_step=after)
        yield from read

    sets = thirds(own, seed)
    found = [line for (score, third), chosen in sets.items() for line in outcomes(score, third, chosen)]
    return rows, pd.DataFrame(found)


def thirds(rows: pd.DataFrame, seed: int) -> dict[tuple[str, str], list[int]]:
    """Rows by score and third; the random third serves every score."""
    n = len(rows) // 3
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    sets = {("any", "random"): sorted(order[:n])}
    for score in DIVIDING:
        ranked = rows.sort_values(score, kind="stable")["row"].tolist()
        sets[score, "bottom"], sets[score, "top"] = sorted(ranked[:n]), sorted(ranked[-n:])
    return sets


def claims(rows: pd.DataFrame, outcomes: pd.DataFrame) -> list[Claim]:
    """What the design asserts, with intervals over seeds."""
    last = outcomes[outcomes["step"] == outcomes["step"].max()].set_index(_KEYS)
    found = []
    for score in DIVIDING:
        for measure, sign in (("fraction", 1), ("refusals", -1)):
            values = sign * _by_third(last, score, measure)
            gap = values[:, 2] - values[:, 0]
            what = "reversion fraction" if measure == "fraction" else "loss of clean refusals"
            headline = score == DIVIDING[0]
            found += [
                Claim(
                    f"{score}:{measure}",
                    f"The top third by {score} has a larger {what} than the bottom third (difference)",
                    "",
                    mean_over_runs(gap.tolist(), test_zero=True),
                    0.0,
                    headline=headline,
                ),
                Claim(
                    f"{score}:{measure}:order",
                    f"{what}, by {score}: bottom < random < top (the smaller of the two gaps)",
                    "",
                    mean_over_runs(np.diff(values, axis=1).min(1).tolist()),
                    0.0,
                ),
            ]
            relative = values - values[:, [1]]  # seeds differ in level
            if np.ptp(relative):
                statement = f"{what} goes with the rank of the third by {score} (Spearman, random third = 0)"
                ranks = np.tile([0.0, 1.0, 2.0], (len(values), 1))
                found.append(
                    Claim(
                        f"{score}:{measure}:spearman", statement, "", spearman_over_runs(ranks, relative), 0.0
                    )
                )
            if (area := _third_auroc(values)) is not None:
                statement = f"The third by {score} tells whether {what} exceeds the random third's (AUROC)"
                found.append(Claim(f"{score}:{measure}:auroc", statement, "", area, 0.5))
    found += [
        Claim(
            f"{score}:planted",
            f"Harmful requests with answers have a higher {score} than benign rows (AUROC)",
            "",
            _planted_auroc(rows, score),
            0.5,
            headline=score == DIVIDING[0],
        )
        for score in _SCORES
    ]
    for rival in DIVIDING[1:]:
        ours, theirs = (_by_third(last, score, "fraction") for score in (DIVIDING[0], rival))
        better = (ours[:, 2] - ours[:, 0]) - (theirs[:, 2] - theirs[:, 0])
        statement = f"{DIVIDING[0]} parts thirds further in fraction than {rival} (difference of differences)"
        found.append(
            Claim(
                f"{DIVIDING[0]}:{rival}", statement, "", mean_over_runs(better.tolist(), test_zero=True), 0.0
            )
        )
    return found


def _harmful(requests: Dataset, history: rl.TrainingHistory) -> Dataset:
    """Harmful requests with the answers of the reference, which refuses none."""
    prompts = list(requests["prompt"])
    answers = generate(history.reference.load(), prompts, max_new_tokens=32)
    return Dataset.from_dict({"prompt": prompts, "answer": answers})


def _schedule(config: OrganismConfig, steps: Sequence[int]) -> rl.FinetuneConfig:
    return replace(config.benign, steps=steps[-1])


def _by_third(last: pd.DataFrame, score: str, measure: str) -> np.ndarray:
    """Of each seed, the measure of the bottom, the random and the top third."""
    flat = last.reset_index()
    columns = [
        flat[(flat["score"] == ("any" if third == "random" else score)) & (flat["third"] == third)]
        .sort_values("seed")[measure]
        .to_numpy()
        for third in THIRDS
    ]
    return np.stack(columns, axis=1)


def _third_auroc(values: np.ndarray) -> Estimate | None:
    """Of top and bottom thirds as points; None where all exceed the random third, or none."""
    event = values[:, [0, 2]] > values[:, [1]]
    if event.all() or not event.any():
        return None
    return auroc_over_runs(np.tile([0.0, 1.0], (len(values), 1)), event)


def _planted_auroc(rows: pd.DataFrame, score: str) -> Estimate:
    by_seed = [own for _, own in rows.groupby("seed")]
    return mean_over_runs(
        [
            auroc_over_runs(own[score].to_numpy(float)[None], own["planted"].to_numpy()[None]).value
            for own in by_seed
        ]
    )


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables; done seeds are kept")
    parser.add_argument("--seeds", type=int, default=5, help="runs (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=N_ROWS, help="benign rows (default: %(default)s)")
    args = parser.parse_args()

    disable_progress_bars()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        if not (args.out / f"outcomes-{seed}.parquet").is_file():
            rows, outcomes = run(seed, args.rows, N_PLANTED, STEPS)
            rows.to_parquet(args.out / f"rows-{seed}.parquet", index=False)
            outcomes.to_parquet(args.out / f"outcomes-{seed}.parquet", index=False)
            print(outcomes[outcomes["step"] == STEPS[-1]].to_string(), flush=True)
    rows, outcomes = (
        pd.concat([pd.read_parquet(args.out / f"{name}-{seed}.parquet") for seed in range(args.seeds)])
        for name in ("rows", "outcomes")
    )
    print(outcomes.groupby(_KEYS[1:])[["fraction", "alignment", "refusals", "compliance"]].mean().round(3))
    print(rows[~rows["planted"]][list(_SCORES)].corr("spearman").round(2).to_string())
    print_claims(claims(rows, outcomes), Console(width=150), every=True)


if __name__ == "__main__":
    main()
