"""Does the organism's erosion depend on one setting of its recipe?

Each variant changes one setting, for every seed.

python analyses/recipe_sensitivity.py                     # about 20 minutes on 2 cores
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import revlens as rl
from _options import plain_parser
from revlens.experiment import Arms, ExperimentConfig, run_experiment
from revlens.organism import OrganismConfig
from revlens.results import Layout
from revlens.statistics import mean_over_runs

BASE = OrganismConfig()
VARIANTS = {
    "as it is": BASE,
    "benign learning rate x 1/2": replace(
        BASE, benign=replace(BASE.benign, learning_rate=BASE.benign.learning_rate / 2)
    ),
    "benign learning rate x 2": replace(
        BASE, benign=replace(BASE.benign, learning_rate=BASE.benign.learning_rate * 2)
    ),
    "benign batch x 2": replace(BASE, benign=replace(BASE.benign, batch_size=BASE.benign.batch_size * 2)),
    "benign warm-up of 20 updates": replace(BASE, benign=replace(BASE.benign, warmup_steps=20)),
    "benign weight decay 0.1": replace(BASE, benign=replace(BASE.benign, weight_decay=0.1)),
    "alignment updates x 1/2": replace(
        BASE, alignment=replace(BASE.alignment, steps=BASE.alignment.steps // 2)
    ),
    "alignment updates x 2": replace(BASE, alignment=replace(BASE.alignment, steps=BASE.alignment.steps * 2)),
    "another world": replace(BASE, world=replace(BASE.world, seed=1)),
    "half the width": replace(BASE, model=replace(BASE.model, d_model=BASE.model.d_model // 2)),
}
MEASURES = (
    "aligned: harmfulness",
    "aligned: over-refusal",
    "harmfulness at the end",
    "alignment at step 1",
    "alignment at step 20",
    "alignment at the end",
)


def measure(config: ExperimentConfig, layout: Layout, seed: int) -> list[float]:
    aligned = json.loads(layout.start_behaviour(seed).read_text())[1]["measures"]
    last = json.loads(layout.behaviour(seed, "baseline").read_text())[-1]["measures"]
    acts = rl.Activations.open(layout.activations(seed, "baseline"))
    motion = rl.drift(acts, rl.ReversionDirection.load(layout.v_rev(seed)))
    alignment = [float(motion.alignment[motion.at_step(step)].mean()) for step in config.steps]
    return [aligned["harmfulness"], aligned["over_refusal"], last["harmfulness"], *alignment]


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each variant (default: %(default)s)")
    args = parser.parse_args()

    table = Table("variant", *MEASURES, title=f"Baseline arm, {args.seeds} runs each: mean [95 % over runs]")
    for name, organism in VARIANTS.items():
        config = ExperimentConfig(
            subject=organism,
            seeds=tuple(range(args.seeds)),
            steps=(1, 20, 100),
            plan=Arms(arms=("baseline",)),
        )
        with tempfile.TemporaryDirectory() as out:
            run_experiment(
                config,
                Path(out),
                stages=("history", "finetune", "capture", "behaviour"),
                console=Console(stderr=True),
            )
            runs = [measure(config, Layout(Path(out)), seed) for seed in config.seeds]
        table.add_row(
            name, *(str(mean_over_runs(values)).replace("[", r"\[") for values in zip(*runs, strict=True))
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
