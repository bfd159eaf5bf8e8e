"""The work of each process in tests/training/test_two_processes.py, in a module that they can import."""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from datasets import Dataset, disable_progress_bars
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from transformers.utils import logging

from revlens.direction import ReversionDirection
from revlens.errors import RevlensError
from revlens.history import TrainingHistory
from revlens.training import Every, FinetuneConfig, Guard, Monitor, ReversionCallback, finetune, make_guard
from revlens.training.chat_data import collate, encode_examples
from revlens.training.streams import edit_streams

#: Strengths of the arms; 5 rows a batch divide unevenly over processes, and answers differ in length.
STRENGTHS = {
    "baseline": None,
    "block": 5.0,
    "adaptive": 1e-3,
    "projection": None,
    "clamp": None,
    "rehearsal": 0.3,
    "lisa": 1.0,
    "surgery": 100.0,
    "constrained": 100.0,
    "safe_lora": 0.9,
}
CONFIG = FinetuneConfig(steps=2, learning_rate=1e-3, batch_size=5, micro_batch_size=2)
TRAINER_ARMS = ("block", "projection", "clamp", "lisa")
#: Arms that FSDP2 trains too, in a Trainer, with two micro-batches an update.
SHARDED_STRENGTHS = {
    "baseline": None,
    "block": 5.0,
    "adaptive": 1e-3,
    "rehearsal": 0.3,
    "kl": 10.0,
    "l2sp": 1.0,
}


@dataclass(frozen=True)
class Setting:
    """Everything that a process needs, picklable."""

    history: TrainingHistory
    v_rev: Path
    guard: list[str]
    rows: dict[str, list[str]]
    out: Path

    def make_guard(
        self, arm: str, model: nn.Module, reference: nn.Module, tokenizer: Any = None
    ) -> Guard | None:
        v_rev, refusals = ReversionDirection.load(self.v_rev), Dataset.from_dict(self.rows)
        return make_guard(
            arm,
            v_rev,
            model,
            self.guard,
            strength=(STRENGTHS | SHARDED_STRENGTHS)[arm],
            seed=0,
            refusals=refusals,
            reference=reference,
            tokenizer=tokenizer,
        )


def weights(model: nn.Module) -> Tensor:
    whole = [
        parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        for parameter in model.parameters()
    ]
    return torch.cat([parameter.detach().flatten() for parameter in whole]).clone()


def finetuned(setting: Setting, arm: str, on_step: Callable[[int, float], None]) -> TransformerBridge:
    model = setting.history.aligned.load()
    guard = setting.make_guard(arm, model, setting.history.reference.load())
    finetune(model, Dataset.from_dict(setting.rows), CONFIG, seed=0, guard=guard, on_step=on_step)
    return model


class ShardingTrainer(Trainer):
    """A Trainer that runs accelerate's FSDP2 code, which accelerate itself skips without accelerators."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.state.distributed_type = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        self.is_fsdp_enabled = True


def unchanged(guard: Guard) -> Guard:
    return guard


def trained_by_trainer(
    setting: Setting, arm: str, *, sharded: bool = False, exchange: Callable[[Guard], Guard] = unchanged
) -> tuple[nn.Module, Tensor]:
    """Train with SGD, whose updates keep the gradient's size; also give the displacement after each."""
    path = setting.history.aligned.path
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager"),
        AutoTokenizer.from_pretrained(path),
    )
    examples = encode_examples(tokenizer, Dataset.from_dict(setting.rows))

    def collated(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        batch = collate([examples[row["row"]] for row in rows], tokenizer.pad_token_id)
        return {
            "input_ids": batch.tokens,
            "labels": batch.labels,
            "attention_mask": torch.ones_like(batch.tokens),
        }

    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings: dict[str, Any] = {
        "max_steps": 2, "learning_rate": 0.05, "per_device_train_batch_size": 4 // n_processes,
        "lr_scheduler_type": "constant", "optim": "sgd", "report_to": [], "save_strategy": "no",
        "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "dataloader_pin_memory": False,
        "remove_unused_columns": False, "seed": 0, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    if n_processes > 1:
        settings["ddp_backend"] = "gloo"
    if sharded:
        settings |= {
            "fsdp": True,
            "fsdp_config": {"version": 2},
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
        }
    v_rev = ReversionDirection.load(setting.v_rev)
    monitor = Monitor.along(v_rev, model, setting.guard, every=1, tokenizer=tokenizer)
    trainer = (ShardingTrainer if sharded else Trainer)(
        model=model,
        args=TrainingArguments(output_dir=str(setting.out), **settings),
        train_dataset=Dataset.from_dict({"row": list(range(len(examples)))}),
        data_collator=collated,
        callbacks=[
            ReversionCallback(exchange(setting.make_guard(arm, model, model, tokenizer) or Guard()), monitor)
        ],
    )
    trainer.train()
    assert isinstance(trainer.model, nn.Module)
    return trainer.model, torch.stack([reading.displacement for reading in monitor.readings])


def environment(rank: int, port: int) -> dict[str, str]:
    """The environment of one of two processes under ``accelerate launch``; accelerate reads it at import."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def in_two_processes(target: Callable[[Any, int], None], about: object) -> None:
    """Run ``target(about, rank)`` in two processes that accelerate treats as launched together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    processes = [context.Process(target=target, args=(about, rank)) for rank in range(2)]
    for rank, process in enumerate(processes):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(rank, port).items():
                patch.setenv(name, value)
            process.start()
    try:
        for process in processes:
            process.join(timeout=300)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()


def work(setting: Setting, rank: int) -> None:
    """One of two processes: train every arm, and save its weights and the arguments of `on_step`."""
    torch.set_num_threads(1)
    disable_progress_bars()
    logging.disable_progress_bar()
    found: dict[str, Tensor] = {}
    for arm in STRENGTHS:
        losses: list[float] = []
        found[arm] = weights(finetuned(setting, arm, lambda step, loss, losses=losses: losses.append(loss)))  # type: ignore[misc]
        found[f"{arm} losses"] = torch.tensor(losses, dtype=torch.float64)
    for arm in TRAINER_ARMS:
        found[f"trainer {arm}"] = weights(trained_by_trainer(setting, arm)[0])
    (setting.out / f"{rank}.txt").write_text("\n".join(refusals(setting, rank)))
    for arm in SHARDED_STRENGTHS:  # from here on accelerate treats the two processes as sharding ones
        model, readings = trained_by_trainer(setting, arm, sharded=True)
        # No parameter is whole, not even after the last reading.
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        found |= {f"sharded {arm}": weights(model), f"sharded {arm} readings": readings}
    (setting.out / f"{rank}-sharded.txt").write_text("\n".join(refusals_of_shards(setting)))
    save_file(found, setting.out / f"{rank}.safetensors")


@dataclass
class BreakInOneProcess(Guard):
    """Makes the task's activations NaN in one of the processes."""

    rank: int

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        return edit_streams(model, {0: lambda stream: stream * float("nan")} if self.rank == 1 else {})


def refusals(setting: Setting, rank: int) -> list[str]:
    """The errors for weights that differ, too few rows, and a loss that is not finite in one process."""
    said: list[str] = []

    def attempt(config: FinetuneConfig, guard: Guard | None = None, shift: float = 0.0) -> None:
        model = setting.history.aligned.load()
        with torch.no_grad():
            next(model.parameters()).add_(shift)
        try:
            finetune(model, Dataset.from_dict(setting.rows), config, seed=0, guard=guard)
        except RevlensError as error:
            said.append(f"{type(error).__name__}: {error}")

    attempt(CONFIG, shift=1e-3 * rank)
    attempt(replace(CONFIG, batch_size=1, micro_batch_size=None))
    attempt(CONFIG, BreakInOneProcess(rank))
    return said


class Alien(Guard):
    """A guard whose term has a gradient, but none with respect to the model's weights."""

    def term(self, model: nn.Module) -> Tensor:
        return torch.ones((), requires_grad=True)


def refusals_of_shards(setting: Setting) -> list[str]:
    """The errors under FSDP2 for a guard that needs whole weights, one without gradient, and `finetune`."""
    bridge = setting.history.aligned.load()
    fully_shard(bridge.original_model)
    said: list[str] = []
    for attempt in (
        lambda: trained_by_trainer(
            setting, "projection", sharded=True, exchange=lambda guard: Every(2, guard)
        ),
        lambda: trained_by_trainer(setting, "baseline", sharded=True, exchange=lambda guard: Alien()),
        lambda: finetune(bridge, Dataset.from_dict(setting.rows), CONFIG, seed=0),
    ):
        try:
            attempt()
        except RevlensError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said
