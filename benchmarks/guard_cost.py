"""What each guard costs: step time and peak memory relative to plain fine-tuning, beside its tokens' floor.

It uses a model with random weights, the organism's benign task and its guard probes. Methods take turns, so
that whatever else the machine does falls on all of them. The floor is what a guard's extra tokens cost at
least; it counts a token's backward pass as two forward passes.

    python benchmarks/guard_cost.py [--quick] [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import read_prompts
from revlens.direction import ReversionDirection
from revlens.history.source import default_device
from revlens.organism import ModelConfig, World, WorldConfig
from revlens.organism.model import organism_model, train_tokenizer
from revlens.training import (
    METHODS,
    Every,
    FinetuneConfig,
    GradientProjection,
    Guard,
    Monitor,
    ProbeMotion,
    finetune,
    make_guard,
)

#: Beside `METHODS`: block at every fourth update, projection of one layer, and the monitor's defaults.
EXTRA = ("block, every 4th", "projection, 1 layer", "monitor")
N_WARM = 2


@dataclass(frozen=True)
class Work:
    """The model, and how many updates are timed."""

    model: ModelConfig
    steps: int
    batch_size: int = 16


@dataclass(frozen=True)
class Cost:
    """Seconds of each update after the first few; units of work (a token forward: 1), the task's and all."""

    seconds: list[float]
    task_units: float
    all_units: float


FULL = Work(ModelConfig(d_model=256, n_layers=6, n_heads=4, d_mlp=1024), steps=12)
QUICK = Work(ModelConfig(d_model=64, n_layers=3, n_heads=2, d_mlp=128), steps=6)


class Bench:
    """What the methods share."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.world = World(WorldConfig())
        self.tokenizer = train_tokenizer(self.world.texts(), work.model.n_vocab)
        self.data = self.world.benign(work.steps * work.batch_size, 0)
        self.probes = self.world.probes()
        both = (read_prompts(self.model(seed), self.probes["direction"]) for seed in (1, 0))
        self.v_rev = ReversionDirection.fit(*both, split="direction")

    def model(self, seed: int = 0) -> TransformerBridge:
        """A model with random weights."""
        model = organism_model(self.work.model, self.tokenizer, seed)
        model.to(default_device(), print_details=False)
        return model

    def guard(self, method: str, model: TransformerBridge) -> Guard | None:
        """The guard of a method."""
        motion = ProbeMotion.along(self.v_rev, model, self.probes["guard"], layers=(self.v_rev.layers[-1],))
        if method == "projection, 1 layer":
            return GradientProjection(motion)
        arm = method.partition(",")[0] if method != "monitor" else "baseline"
        refusals = Dataset.from_dict(
            {
                "prompt": list(self.probes["behaviour"]),
                "answer": ["I can't help."] * len(self.probes["behaviour"]),
            }
        )
        grid = METHODS[arm].grid
        guard = make_guard(
            arm,
            self.v_rev,
            model,
            self.probes["guard"],
            strength=grid[len(grid) // 2],
            seed=0,
            refusals=refusals,
            reference=self.model(1),
        )
        return Every(4, guard) if guard is not None and method == "block, every 4th" else guard

    def run(self, method: str) -> Cost:
        """Fine-tune with a method."""
        model = self.model()
        guard = self.guard(method, model)
        monitor = Monitor.along(self.v_rev, model, self.probes["drift"])
        counter = Counter(model, self.work.batch_size)
        times: list[float] = []

        def after_step(step: int, loss: float) -> None:
            if method == "monitor" and monitor.is_due(step):
                monitor.read(model, step)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        config = FinetuneConfig(steps=self.work.steps, learning_rate=1e-4, batch_size=self.work.batch_size)
        finetune(model, self.data, config, seed=0, guard=guard, on_step=after_step)
        n_backward = {"projection": self.work.model.n_layers}.get(method, 1)
        units = counter.without_gradient + (1 + 2) * counter.task + (1 + 2 * n_backward) * counter.extra
        return Cost(
            [b - a for a, b in itertools.pairwise(times)][N_WARM - 1 :], 3.0 * counter.task, float(units)
        )


class Counter:
    """Counts the tokens that a model embeds: the task's, the guard's, and those without gradient.

    Batches of the task's size are the task's.
    """

    def __init__(self, model: TransformerBridge, task_rows: int) -> None:
        self.task_rows = task_rows
        self.task = self.extra = self.without_gradient = 0
        model.embed.register_forward_pre_hook(self._count)

    def _count(self, module: object, args: tuple[Tensor, ...]) -> None:
        if not torch.is_grad_enabled():
            self.without_gradient += args[0].numel()
        elif len(args[0]) == self.task_rows:
            self.task += args[0].numel()
        else:
            self.extra += args[0].numel()


def peak_memory(work: Work, method: str, send: Callable[[float], None]) -> None:
    """MiB that a fine-tune takes at most beyond what is in use before it; in a process of its own."""
    torch.set_num_threads(1)
    disable_progress_bars()
    bench = Bench(work)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        bench.run(method)
        send(torch.cuda.max_memory_allocated() / 2**20)
        return
    before = _status("VmRSS")
    bench.run(method)
    send((_status("VmHWM") - before) / 2**10)


def _status(field: str) -> float:
    """A field of this process's status, in KiB (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    disable_progress_bars()
    work = QUICK if args.quick else FULL
    bench, methods = Bench(work), (*METHODS, *EXTRA)
    costs: dict[str, list[Cost]] = {method: [] for method in methods}
    for _ in range(args.repeats):
        for method in methods:
            costs[method].append(bench.run(method))
    memory = {method: measured_apart(work, method) for method in methods}

    # A mean over updates, so that work at some of them counts by its share; the best repeat has least noise.
    seconds = {method: min(statistics.fmean(cost.seconds) for cost in costs[method]) for method in methods}
    task_units = costs["baseline"][0].task_units
    print(
        f"{work.model}, {work.batch_size} rows and {len(bench.probes['guard'])} guard probes per update; "
        f"{default_device()}, {args.threads} thread(s), plain step {1e3 * seconds['baseline']:.1f} ms\n"
    )
    print("| method | step time | floor | time / floor | peak memory |\n| --- | --- | --- | --- | --- |")
    for method in methods:
        ratio, floor = seconds[method] / seconds["baseline"], costs[method][0].all_units / task_units
        use = memory[method] / memory["baseline"]
        print(f"| {method} | {ratio:.2f} | {floor:.2f} | {ratio / floor:.2f} | {use:.2f} |")


def measured_apart(work: Work, method: str) -> float:
    """`peak_memory` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=peak_memory, args=(work, method, sender.send))
    process.start()
    value = receiver.recv()
    process.join()
    return value


if __name__ == "__main__":
    main()
