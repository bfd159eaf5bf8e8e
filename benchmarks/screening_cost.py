"""What screening costs a row, in CPU seconds beside a forward and backward pass and an update.

It uses models with random weights and the organism's benign task. Ways take turns on the same rows; times are
CPU seconds of the process, so that whatever else the machine does counts little.

    OMP_NUM_THREADS=1 python benchmarks/screening_cost.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import disable_progress_bars

from revlens.direction import ReversionDirection
from revlens.organism import ModelConfig, World, WorldConfig
from revlens.organism.model import organism_model, train_tokenizer
from revlens.prompts import pad_id_of
from revlens.screening import reversion_gradient
from revlens.screening.rivals import probe_similarity, projection_difference
from revlens.screening.row_scores import score_in_batches, score_one_by_one
from revlens.training import FinetuneConfig, answer_loss, collate, encode_examples, trained_parameters

MODELS = {
    "4 layers, d = 128": ModelConfig(),
    "6 layers, d = 256": ModelConfig(d_model=256, n_layers=6, n_heads=4, d_mlp=1024),
}
N_ROWS, N_REPEATS, TRAINED, SCREENED = 64, 3, 16, 64
CONFIG = FinetuneConfig(steps=1, learning_rate=1e-4, batch_size=TRAINED)


def ways(shape: ModelConfig) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the first is the unit."""
    world = World(WorldConfig())
    tokenizer = train_tokenizer(world.texts(), shape.n_vocab)
    model = organism_model(shape, tokenizer, 0)
    model.eval()
    rows, probes = world.benign(N_ROWS, 0), world.probes()
    examples, prompts = encode_examples(tokenizer, rows), list(rows["prompt"])
    batches = [collate(examples[i : i + TRAINED], pad_id_of(tokenizer)) for i in range(0, N_ROWS, TRAINED)]
    layers = tuple(range(shape.n_layers))
    unit = torch.nn.functional.normalize(torch.randn(len(layers), shape.d_model), dim=-1)
    v_rev = ReversionDirection(unit, torch.ones(len(layers)), layers, "direction", 1)
    gradient = reversion_gradient(model, v_rev, probes["drift"])
    trained = list(trained_parameters(model).values())
    optimizer = torch.optim.AdamW(trained, lr=0.0)  # every way sees the same weights

    def backward() -> None:
        for batch in batches:
            optimizer.zero_grad()
            answer_loss(model, batch).backward()

    def update() -> None:
        for batch in batches:
            optimizer.zero_grad()
            answer_loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

    def difference() -> None:
        projection_difference(model, prompts, examples, v_rev, reply_tokens=32, batch_size=SCREENED)

    return {
        f"forward and backward pass, {TRAINED} rows": backward,
        f"update, {TRAINED} rows": update,
        f"sgd, in batches of {SCREENED}": lambda: score_in_batches(
            model, examples, gradient, CONFIG, SCREENED
        ),
        f"sgd, in batches of {TRAINED}": lambda: score_in_batches(model, examples, gradient, CONFIG, TRAINED),
        "adamw (and all of the above), row by row": lambda: score_one_by_one(
            model, examples, gradient, CONFIG
        ),
        "projection difference": difference,
        "similarity": lambda: probe_similarity(model, prompts, probes["drift"], layers[-1], SCREENED),
        "reversion gradient, once for all rows": lambda: reversion_gradient(model, v_rev, probes["drift"]),
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    disable_progress_bars()
    print("| model | way | CPU ms a row: min / median / max | over forward and backward |")
    print("|---|---|---|---|")
    for name, shape in MODELS.items():
        timed = ways(shape)
        seconds: dict[str, list[float]] = {way: [] for way in timed}
        for _ in range(N_REPEATS):
            for way, work in timed.items():
                seconds[way].append(cpu_seconds(work))
        unit, *_ = seconds.values()
        for way, values in seconds.items():
            low, mid, high = (f"{1e3 * f(values) / N_ROWS:.2f}" for f in (min, statistics.median, max))
            ratios = [value / base for value, base in zip(values, unit, strict=True)]
            ratio = " / ".join(f"{f(ratios):.2f}" for f in (min, statistics.median, max))
            print(f"| {name} | {way} | {low} / {mid} / {high} | {ratio} |")


if __name__ == "__main__":
    main()
