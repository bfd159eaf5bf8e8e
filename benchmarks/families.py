"""Markdown tables of the numbers that the tests of architecture families bound.

The families are small Hugging Face checkpoints with random weights.

PYTHONPATH=tests python benchmarks/families.py
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel
from transformers.utils.logging import disable_progress_bar

from families import (
    ANSWERS,
    FAMILIES,
    FEW,
    PROBES,
    PROMPTS,
    bridge_run,
    hugging_face_rows,
    hugging_face_run,
    load_hugging_face,
    save_family,
    train_history,
)
from revlens.activations import capture, read_prompts
from revlens.causal import FallbackWarning, RefusalLogitDifference, patch_between
from revlens.direction import ReversionDirection, locate
from revlens.history import Directory, TrainingHistory, boot, boot_with_lora, save
from revlens.training import finetune, make_guard

HALF = (torch.bfloat16, torch.float16)
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def forward_row(family: str, root: Path) -> list[str]:
    """Largest differences from Hugging Face, of streams and of logits.

    In half precision they stand beside Hugging Face's own differences from float32.
    """
    cells = [family]
    for dtype in (torch.float32, *HALF):
        path = save_family(family, root / str(dtype), dtype)
        rows = hugging_face_rows(path)
        ours, theirs = (
            bridge_run(boot(path, dtype), rows),
            hugging_face_run(load_hugging_face(path, dtype), rows),
        )
        cells.append(pair(ours.distance(theirs)))
        if dtype in HALF:
            cells.append(pair(theirs.distance(hugging_face_run(load_hugging_face(path), rows))))
    return cells


def pipeline_row(family: str, root: Path) -> list[str]:
    """Numbers of a small trained history."""
    history = train_history(family, root)
    v_rev = locate(capture(history, PROBES, root / "acts"))
    aligned, tuned = history.aligned.load(), history[4].load()
    metric = RefusalLogitDifference.from_texts(aligned.tokenizer, engaging=["Sure"], refusal=["I can't"])
    own = patch_between(tuned, tuned, PROMPTS, metric, last=None).result.effect().abs().max()
    hybrid = history[4].load()
    hybrid.ln_final.load_state_dict(aligned.ln_final.state_dict())
    hybrid.unembed.load_state_dict(aligned.unembed.state_dict())
    sweep = patch_between(aligned, hybrid, PROMPTS, metric)
    last = (sweep.result.values[-1, -1] - sweep.donor).abs().max()
    cells = [family, f"{v_rev.gap.min():.2f}", f"{own:.0e}", f"{last:.0e}"]
    for adapter in (False, True):
        cells.extend(guarded(history, v_rev, adapter, root))
    return cells


def guarded(
    history: TrainingHistory, v_rev: ReversionDirection, adapter: bool, root: Path
) -> tuple[str, str]:
    """What the block leaves of the motion, and the distance of Hugging Face from the saved model.

    The first is the mean squared positive displacement with the block over that without.
    """
    aligned = history.aligned.load()
    start = read_prompts(aligned, PROBES["guard"]).double().mean(0)
    source = Directory(history.aligned.path)
    moved = {}
    for arm in ("baseline", "block"):
        model = boot_with_lora(source, LORA, seed=0) if adapter else source.boot(torch.float32)
        guard = make_guard(arm, v_rev, aligned, PROBES["guard"], strength=10.0, seed=0)
        torch.manual_seed(0)  # GPT-2 has dropout
        finetune(model, ANSWERS, replace(FEW, learning_rate=2e-2 if adapter else 5e-3), seed=0, guard=guard)
        displacement = ((read_prompts(model, PROBES["guard"]).double().mean(0) - start) * v_rev.unit).sum(-1)
        moved[arm] = float(displacement.relu().square().mean())
    path = root / ("lora" if adapter else "full")
    save(model, path)
    hf_model: Any = load_hugging_face(source.path if adapter else path)
    if adapter:
        hf_model = PeftModel.from_pretrained(hf_model, str(path)).get_base_model()
    rows = hugging_face_rows(history.aligned.path)
    return f"{moved['block'] / moved['baseline']:.2f}", pair(
        bridge_run(model, rows).distance(hugging_face_run(hf_model, rows))
    )


def pair(differences: tuple[float, float]) -> str:
    """Streams, logits."""
    return ", ".join("0" if value == 0 else f"{value:.0e}" for value in differences)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    disable_progress_bar()
    warnings.simplefilter("error", FallbackWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft's use of transformers
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print_table(
            ["family", "float32", "bfloat16", "rounding of bfloat16", "float16", "rounding of float16"],
            [forward_row(family, root / "forward" / family) for family in FAMILIES],
        )
        print_table(
            [
                "family",
                "gap",
                "patched with itself",
                "last stream patched",
                "block / baseline, full",
                "reloaded, full",
                "block / baseline, LoRA",
                "reloaded, LoRA",
            ],
            [pipeline_row(family, root / "pipeline" / family) for family in FAMILIES],
        )


if __name__ == "__main__":
    main()
