"""The section of a model card: what is measured on the model as it is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from families import save_family
from revlens.direction import ReversionDirection
from revlens.training import Block, Every, FreezeLayers, Guard, Monitor, ProbeMotion, model_card_section

PROMPTS = ["Why?", "Now what?", "Who?"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_family("llama", tmp_path / "aligned")


def test_it_says_how_far_the_saved_model_went_and_what_held_it(saved: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    unit = torch.nn.functional.normalize(
        torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    v_rev = ReversionDirection(unit, torch.full((3,), 2.0), (0, 1, 2), "direction", 4)
    monitor = Monitor.along(v_rev, model, PROMPTS, tokenizer=tokenizer)
    guard = Every(4, Block(ProbeMotion.along(v_rev, model, PROMPTS, tokenizer=tokenizer), 5.0))
    with torch.no_grad():
        model.model.embed_tokens.weight += unit[0]
    section = model_card_section(model, monitor, guard, seed=3)
    reading = monitor.measure(model, step=0)
    fraction = reading.fraction
    row = f"| {fraction.mean():.1%} | {fraction.min():.1%} | {fraction.max():.1%} |"
    assert "reversion fraction (0: aligned model, 1: permissive reference) " + row in section
    assert f"| {reading.alignment.mean():.3f} |" in section
    assert "probes since the aligned model, at 3 layers" in section
    assert "- Guard: Every (Block, strength 5), k 4.\n" in section
    assert "- Seed 3. Made with revlens " in section
    assert monitor.readings == []  # those of the training stay as they are
    ModelCard(section).save(tmp_path / "README.md")
    assert section in (tmp_path / "README.md").read_text()


def test_guards_without_numbers_and_none_are_named(saved: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(saved)
    v_rev = ReversionDirection(torch.eye(3, 16), torch.ones(3), (0, 1, 2), "direction", 4)
    monitor = Monitor.along(v_rev, model, PROMPTS, tokenizer=AutoTokenizer.from_pretrained(saved))
    for guard, named in ((None, "none"), (Guard(), "Guard"), (FreezeLayers((0, 1)), "FreezeLayers")):
        assert f"- Guard: {named}.\n" in model_card_section(model, monitor, guard, seed=0)
