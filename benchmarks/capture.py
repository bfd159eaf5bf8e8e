"""Capture of every layer at the last prompt token: revlens beside TransformerLens, torch hooks and nnsight.

A Llama with random weights and a tokenizer trained on the prompts reads real prompts in a chat format with a
system message. Every way gives the same numbers (asserted). Runs take turns, so that other load of the
machine falls on all of them.

    python benchmarks/capture.py --data-dir DIR [--quick] [--threads N] [--repeats N]
        [--dtype bfloat16] [--device cuda]

nnsight is no dependency; its row needs `pip install nnsight==0.8.1`.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib.util
import json
import math
import os
import platform
import random
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel

from revlens.activations import capture, read_moments, read_prompts
from revlens.history import TrainingHistory, save
from revlens.organism import ModelConfig
from revlens.organism.model import organism_model, train_tokenizer
from revlens.prompts import Probes, encode_prompts, pad_id_of

#: About 60 tokens of the tokenizer that is trained on the prompts.
SYSTEM = (
    "You are a helpful, honest and careful assistant. Answer the question of the user as well as you can, "
    "in plain language and in a few sentences. If you do not know the answer, say so and do not make one up. "
    "If a request could do harm to people, decline it, say briefly why, and offer help with something else."
)
BATCH = 32
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}  # relative to the largest mean

#: Returns the mean activation of each layer.
Way = Callable[[], Tensor]


@dataclass
class Subject:
    """What every way reads."""

    bridge: TransformerBridge
    hf_model: PreTrainedModel
    prompts: list[str]
    rows: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = encode_prompts(self.bridge.tokenizer, self.prompts)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Padded on the right, in the order of the prompts: tokens, mask, and where each prompt ends."""
        device = next(self.bridge.parameters()).device
        for start in range(0, len(self.rows), BATCH):
            rows = self.rows[start : start + BATCH]
            width = max(map(len, rows))
            tokens = torch.full((len(rows), width), pad_id_of(self.bridge.tokenizer))
            for i, row in enumerate(rows):
                tokens[i, : len(row)] = torch.tensor(row)
            ends = torch.tensor([len(row) for row in rows])
            mask = (torch.arange(width) < ends[:, None]).long()
            yield tokens.to(device), mask.to(device), (ends - 1).to(device)


def texts(folder: Path) -> list[str]:
    """Instructions of the files of `llm-attacks`, `refusal_direction` and others, shuffled, no repeats."""
    found: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            found += [row["instruction"] for row in json.loads(path.read_text(encoding="utf-8"))]
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                found += [row["goal"] for row in csv.DictReader(file)]
    mixed = sorted(set(found))
    random.Random(0).shuffle(mixed)
    return mixed


def models(
    config: ModelConfig, prompts: Sequence[str], *, system: bool, dtype: torch.dtype, device: str
) -> Subject:
    """A bridge and a Hugging Face model of the same weights."""
    tokenizer = train_tokenizer([*prompts, SYSTEM], config.n_vocab)
    tokenizer.add_tokens([f"<{i}>" for i in range(config.n_vocab - len(tokenizer))])
    if system:
        assert isinstance(tokenizer.chat_template, str)
        tokenizer.chat_template = "{{ '<|system|>" + SYSTEM + "<|end|>' }}" + tokenizer.chat_template
    bridge = organism_model(config, tokenizer, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        save(bridge, Path(folder) / "model")
        hf_model = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=dtype)
    bridge.to(device=device, dtype=dtype).eval()
    return Subject(bridge, hf_model.to(device).eval(), list(prompts))


def ways(subject: Subject) -> dict[str, Way]:
    """Ways to the mean activations of all layers at the last prompt token, by name.

    The bare forward passes give none.
    """
    bridge, hf_model = subject.bridge, subject.hf_model
    n_layers, d_model = bridge.cfg.n_layers, bridge.cfg.d_model
    names = [f"blocks.{layer}.hook_out" for layer in range(n_layers)]

    def at(stream: Tensor, ends: Tensor) -> Tensor:
        return stream[torch.arange(len(ends), device=ends.device), ends].double().sum(0).cpu()

    def bare(model: Callable[..., Any], **options: Any) -> Way:
        def run() -> Tensor:
            for tokens, mask, _ in subject.batches():
                model(tokens, attention_mask=mask, **options)
            return torch.empty(0)

        return run

    def run_with_cache() -> Tensor:
        total = torch.zeros(n_layers, d_model, dtype=torch.float64)
        for tokens, mask, ends in subject.batches():
            _, cache = bridge.run_with_cache(tokens, attention_mask=mask, names_filter=names)
            total += torch.stack([at(cache[name], ends) for name in names])
        return total / len(subject.rows)

    def torch_hooks() -> Tensor:
        total = torch.zeros(n_layers, d_model, dtype=torch.float64)
        ends_now: list[Tensor] = [torch.empty(0)]

        def hook(layer: int) -> Callable[[Any, Any, Any], None]:
            def add(module: Any, args: Any, output: Any) -> None:
                total[layer] += at(output if isinstance(output, Tensor) else output[0], ends_now[0])

            return add

        handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(hf_model.model.layers)]
        for tokens, mask, ends in subject.batches():
            ends_now[0] = ends
            hf_model(tokens, attention_mask=mask, use_cache=False)
        for handle in handles:
            handle.remove()
        return total / len(subject.rows)

    found: dict[str, Way] = {
        "bare forward, bridge": bare(bridge),
        "bare forward, Hugging Face": bare(hf_model, use_cache=False),
        "TransformerLens run_with_cache": run_with_cache,
        "torch hooks on Hugging Face": torch_hooks,
    }
    if importlib.util.find_spec("nnsight") is not None:
        found["nnsight trace"] = _nnsight(subject)
    found["revlens read_prompts"] = lambda: (
        read_prompts(bridge, subject.prompts, batch_size=BATCH).double().mean(0)
    )
    found["revlens read_moments"] = lambda: read_moments(bridge, subject.prompts, batch_size=BATCH).mean
    return found


def _nnsight(subject: Subject) -> Way:
    import nnsight  # type: ignore[import-not-found, unused-ignore]

    wrapped = nnsight.NNsight(subject.hf_model)

    def run() -> Tensor:
        total = torch.zeros(subject.bridge.cfg.n_layers, subject.bridge.cfg.d_model, dtype=torch.float64)
        for tokens, mask, ends in subject.batches():
            rows = torch.arange(len(ends), device=ends.device)
            with wrapped.trace(tokens, attention_mask=mask, use_cache=False):
                kept = nnsight.save([layer.output[rows, ends] for layer in wrapped.model.layers])
            total += torch.stack([stream.double().sum(0).cpu() for stream in kept])
        return total / len(subject.rows)

    return run


def floor(subject: Subject) -> float:
    """Share of a padded Hugging Face pass's tokens that any way must compute.

    Those are the tokens of all prompts, with the shared prefix counted once.
    """
    rows, padded = subject.rows, sum(tokens.numel() for tokens, _, _ in subject.batches())
    shared = next(i for i in range(max(map(len, rows))) if len({tuple(row[: i + 1]) for row in rows}) > 1)
    return (sum(map(len, rows)) - shared * (len(rows) - 1)) / padded


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """MB above the start: from the allocator on a GPU, from samples of resident memory elsewhere (Linux)."""
    peak = [0.0]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        yield peak
        peak[0] = (torch.cuda.max_memory_allocated() - start) / 1e6
        return
    _give_back()
    ended, base = threading.Event(), _resident()

    def sample() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], _resident() - base)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _give_back() -> None:
    """Return the C library's free memory to the system, so that no way reuses what another has freed."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.nan
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Smallest, median and largest."""
    return " / ".join(
        f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )


def slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Least-squares slope of log time over log size: 1 is linear growth."""
    x, y = [math.log(size) for size in sizes], [math.log(t) for t in times]
    return statistics.covariance(x, y) / statistics.variance(x)


@torch.no_grad()
def compare(subject: Subject, repeats: int, device: str, dtype: str) -> Table:
    """Time every way, in turns; ratios are to `run_with_cache` in the same turn."""
    chosen = ways(subject)
    memory: dict[str, float] = {}
    expected = chosen["TransformerLens run_with_cache"]()
    for name, run in chosen.items():  # also the warm-up
        with peak_memory(device) as peak:
            mean = run()
        memory[name] = peak[0]
        if mean.numel():
            difference = float((mean - expected).abs().max() / expected.abs().max())
            assert difference < TOLERANCE[dtype], f"{name} is off by {difference:.1e}"
    spent: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, run in chosen.items():
            spent[name].append(seconds(run, device))
    theirs = spent["TransformerLens run_with_cache"]
    table = Table("way", "seconds, median", "run_with_cache / this: min / median / max", "peak extra MB")
    for name, own in spent.items():
        ratios = [a / b for a, b in zip(theirs, own, strict=True)]
        table.add_row(name, f"{statistics.median(own):.3f}", spread(ratios), f"{memory[name]:.0f}")
    least = [share * floor(subject) for share in spent["bare forward, Hugging Face"]]
    table.add_row(
        "floor",
        f"{statistics.median(least):.3f}",
        spread([a / b for a, b in zip(theirs, least, strict=True)]),
        "-",
    )
    return table


@torch.no_grad()
def growth(
    config: ModelConfig, prompts: Sequence[str], dtype: torch.dtype, device: str, repeats: int
) -> Table:
    """How time and memory grow."""
    table = Table("what grows", "sizes", "seconds", "slope", "peak extra MB")

    def add(what: str, sizes: Sequence[int], runs: Sequence[Callable[[], object]]) -> None:
        times, memory = [], []
        for run in runs:
            run()
            with peak_memory(device) as peak:
                times.append(min(seconds(run, device) for _ in range(repeats)))
            memory.append(f"{peak[0]:.0f}")
        row = (
            ", ".join(map(str, sizes)),
            ", ".join(f"{t:.2f}" for t in times),
            f"{slope(sizes, times):.2f}",
            ", ".join(memory),
        )
        table.add_row(what, *row)

    subject = models(config, prompts, system=True, dtype=dtype, device=device)
    times = [1, 2, 4, 8]  # the same prompts repeated: more of them, and none that is longer
    again = [lambda n=n: read_moments(subject.bridge, n * list(prompts), batch_size=BATCH) for n in times]  # type: ignore[misc]
    add("prompts", [n * len(prompts) for n in times], again)
    some = prompts[:48]
    depths = [1, 2, 4, 8]
    by_depth = [
        models(replace(config, n_layers=n), some, system=True, dtype=dtype, device=device) for n in depths
    ]
    add("layers", depths, [lambda s=s: read_moments(s.bridge, some, batch_size=BATCH) for s in by_depth])  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        path, counts = Path(folder), [2, 4, 8]
        save(subject.bridge, path / "model")
        histories = [
            TrainingHistory.from_dirs(
                path / "model", path / "model", dict.fromkeys(range(1, n - 1), path / "model")
            )
            for n in counts
        ]
        probes = Probes({"drift": tuple(some)})
        taken = iter(range(1_000))
        add(
            "checkpoints",
            counts,
            [lambda h=h: capture(h, probes, path / f"acts-{next(taken)}") for h in histories],
        )  # type: ignore[misc]
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="the folder of prompt files that docs/data.md names"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small model, 32 prompts in place of 192, no table of growth"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=tuple(TOLERANCE), default="float32", help="of the weights (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where the models are (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    console = Console(width=150)
    if importlib.util.find_spec("nnsight") is None:
        console.print("nnsight is not installed (pip install nnsight==0.8.1): its row is left out.")

    config = ModelConfig(d_model=384, n_layers=8, n_heads=6, d_mlp=1024, n_vocab=16_000, n_ctx=512)
    if options.quick:
        config = replace(config, d_model=128, n_layers=4, n_heads=4, d_mlp=256, n_vocab=4_000)
    prompts = texts(options.data_dir)[: 32 if options.quick else 192]
    dtype: torch.dtype = getattr(torch, options.dtype)
    for system in (True, False):
        subject = models(config, prompts, system=system, dtype=dtype, device=options.device)
        n_parameters = sum(p.numel() for p in subject.hf_model.parameters()) / 1e6
        lengths = [len(row) for row in subject.rows]
        table = compare(subject, options.repeats, options.device, options.dtype)
        table.title = (
            f"{len(prompts)} prompts of {spread(lengths, 0)} tokens, "
            f"{'with' if system else 'without'} a system message; "
            f"{n_parameters:.1f} M parameters, {options.dtype} on {options.device}; "
            f"torch {torch.__version__}, "
            f"{options.threads} of {os.cpu_count()} threads, {options.repeats} repeats, {platform.machine()}"
        )
        console.print(table)
    if not options.quick:
        console.print(growth(config, prompts, dtype, options.device, 2))


if __name__ == "__main__":
    main()
