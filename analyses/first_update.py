"""Does the task's gradient point along v_rev before any training, and is that what the first update does?

Of each benign task of the embedded organism: the drift of the first batch, predicted through a plain gradient
step and through AdamW, and the drift measured after a few updates.

python analyses/first_update.py --out DIR                 # five seeds, four tasks, some CPU-minutes
"""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import disable_progress_bars
from rich.console import Console

import revlens as rl
from _options import fit_v_rev, plain_parser
from revlens.cli.claims import print_claims
from revlens.figures import draw, first_update_figure
from revlens.organism import OrganismConfig
from revlens.results import Claim
from revlens.statistics import mean_over_runs, ratio_over_runs
from revlens.training import finetune

STEPS = (1, 2, 5, 20)
#: The task in the style that the model has.
FLAGSHIP = "answers"


def measure(config: OrganismConfig, seed: int) -> list[dict[str, object]]:
    """One task of one seed: alignment and fraction, predicted and measured, means over layers."""
    world, history = config.material(), config.start(seed)
    probes = world.probes()
    v_rev, _ = fit_v_rev(history, probes)
    model = history.aligned.load()
    data = world.benign(config.benign.steps * config.benign.batch_size, seed)
    predicted = rl.first_update(model, data, v_rev, probes, config.benign, seed=seed)
    drifts = {"plain": predicted.plain, "adamw": predicted.adamw}
    before = rl.read_prompts(model, probes["drift"]).mean(0).double()

    def after(step: int, loss: float) -> None:
        if step in STEPS:
            moved = rl.read_prompts(model, probes["drift"]).mean(0).double() - before
            drifts[str(step)] = rl.Drift.along(moved[None], v_rev, (step,))

    few = rl.FinetuneConfig(**vars(config.benign) | {"steps": STEPS[-1]})
    finetune(model, data, few, seed=seed, on_step=after)
    return [
        {
            "task": config.task,
            "seed": seed,
            "when": when,
            "alignment": float(drift.alignment.mean()),
            "fraction": float(drift.fraction.mean()),
            "length": float((drift.vectors.norm(dim=-1) / v_rev.gap).mean()),
            "weight_cosine": predicted.cosine,
        }
        for when, drift in drifts.items()
    ]


def claims(table: pd.DataFrame) -> list[Claim]:
    """What the design asserts, with intervals over seeds."""

    def values(task: str, when: str, column: str = "alignment") -> np.ndarray:
        chosen = table[(table["task"] == task) & (table["when"] == when)]
        return chosen.sort_values("seed")[column].to_numpy()

    found = []
    for task in table["task"].unique():
        off = mean_over_runs((values(task, "adamw") - values(task, "1")).tolist())
        ratio = ratio_over_runs(*(values(task, when, "fraction").tolist() for when in ("adamw", "1")))
        plain, adamw = values(task, "plain"), values(task, "adamw")
        is_headline = task == FLAGSHIP
        found += [
            Claim(
                f"{task}:predicted",
                f"{task}: the cosine predicted for AdamW's first update is the measured one (difference)",
                "",
                off,
                -0.05,
                0.05,
                headline=is_headline,
            ),
            Claim(
                f"{task}:ratio",
                f"{task}: so is the fraction (ratio of predicted to measured means)",
                "",
                ratio,
                0.8,
                1.25,
            ),
            Claim(
                f"{task}:plain",
                f"{task}: the plain gradient step points along v_rev (predicted cosine)",
                "",
                mean_over_runs(plain.tolist(), test_zero=True),
                0.0,
                headline=is_headline,
            ),
            Claim(
                f"{task}:adamw",
                f"{task}: AdamW's first update points along v_rev (predicted cosine)",
                "",
                mean_over_runs(adamw.tolist(), test_zero=True),
                0.0,
                headline=is_headline,
            ),
            Claim(
                f"{task}:turned",
                f"{task}: AdamW turns the step away from v_rev (cosine, plain minus AdamW)",
                "",
                mean_over_runs((plain - adamw).tolist(), test_zero=True),
                0.0,
            ),
        ]
    return found


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and the figure")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each task (default: %(default)s)")
    args = parser.parse_args()

    disable_progress_bars()
    organism = OrganismConfig()
    lines = [
        line
        for task in organism.tasks
        for seed in range(args.seeds)
        for line in measure(organism.with_task(task), seed)
    ]
    table = pd.DataFrame(lines)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(args.out / "first_update.parquet", index=False)
    draw({"first_update": first_update_figure(table)}, args.out / "figures")
    columns = ["alignment", "fraction", "length", "weight_cosine"]
    print(table.groupby(["task", "when"], sort=False)[columns].mean().round(3).to_string())
    print_claims(claims(table), Console(width=150), every=True)


if __name__ == "__main__":
    main()
