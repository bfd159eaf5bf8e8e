"""What greedy replies cost by a bridge, and by the Hugging Face model itself without hooks.

The two give the same replies (asserted) and take turns; times are CPU seconds of the process, so that
whatever else the machine does counts little.

    OMP_NUM_THREADS=1 python benchmarks/replies.py [--model PATH]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers.utils import logging

from revlens.behaviour import generate
from revlens.history import Checkpoint, local_source
from revlens.organism import World, WorldConfig, embedded_history

N_PROMPTS, N_TOKENS, N_REPEATS = 32, 32, 3


def ways(checkpoint: Checkpoint) -> dict[str, Callable[[], list[str]]]:
    """What is timed, by name; the first is the unit."""
    prompts = list(World(WorldConfig()).probes()["behaviour"])[:N_PROMPTS]
    bridge, plain, tokenizer = checkpoint.load(), checkpoint.module(), checkpoint.tokenizer()
    return {
        "bridge": lambda: generate(bridge, prompts, max_new_tokens=N_TOKENS, batch_size=N_PROMPTS),
        "Hugging Face": lambda: generate(
            plain, prompts, max_new_tokens=N_TOKENS, batch_size=N_PROMPTS, tokenizer=tokenizer
        ),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file or a model's folder, beside the organism")
    given = parser.parse_args().model
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    models = {"organism": embedded_history(seed=0)[0].aligned}
    if given is not None:
        models[given.stem] = Checkpoint(local_source(given), "aligned", 0)
    print(f"| model | {N_PROMPTS} replies, {N_TOKENS} tokens | CPU s: min / median / max | over the bridge |")
    print("|---|---|---|---|")
    for name, checkpoint in models.items():
        timed = ways(checkpoint)
        seconds: dict[str, list[float]] = {way: [] for way in timed}
        for _ in range(N_REPEATS):
            said = []
            for way, work in timed.items():
                start = time.process_time()
                said.append(work())
                seconds[way].append(time.process_time() - start)
            assert said[0] == said[1], "the two ways reply alike"
        unit, *_ = seconds.values()
        for way, values in seconds.items():
            low, mid, high = (f"{f(values):.2f}" for f in (min, statistics.median, max))
            ratio = statistics.median(value / base for value, base in zip(values, unit, strict=True))
            print(f"| {name} | {way} | {low} / {mid} / {high} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
