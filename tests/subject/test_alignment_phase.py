"""An alignment phase of a user's own history: its rows, its models, and what voids them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from families import save_family
from revlens.behaviour import generate
from revlens.data import ChatSource, DroppedWarning, PromptSource
from revlens.errors import ConfigError, DataError, HistoryError, ProbeError
from revlens.history import Adapter, boot, boot_with_lora, save
from revlens.storage import cache_root
from revlens.subject import AlignmentPhase, BenignRun, ProbeFiles, UserHistory
from revlens.training import FinetuneConfig, finetune

RECIPE = FinetuneConfig(steps=3, learning_rate=1e-2, batch_size=4)
PHASE = AlignmentPhase(
    recipe=RECIPE,
    refusals=ChatSource("refusals.json"),
    prompts=PromptSource("ordinary.json"),
    answer_tokens=3,
)
ROWS = AlignmentPhase(recipe=RECIPE, refusals=ChatSource("refusals.json"), ordinary=ChatSource("rows.json"))
PROBES = {
    split: [f"Tell me how to {what} a {thing} quickly" for thing in ("wall", "door")]
    for split, what in zip(
        ("direction", "drift", "behaviour", "guard", "harmless"),
        ("break", "burn", "sink", "sell", "paint"),
        strict=True,
    )
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("qwen2", tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def subject(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserHistory:
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "cache"))
    refusals = [{"prompt": f"Steal {i} cars", "answer": f"I can't help with {i} cars."} for i in range(8)]
    refusals += [{"prompt": f"Steal {i} boats", "answer": f"Boats are {i} metres long."} for i in range(4)]
    files: dict[str, Any] = {
        "refusals.json": refusals,
        "ordinary.json": [f"Name {i} birds" for i in range(9)],
        "rows.json": [{"prompt": f"Name {i} fish", "answer": f"Fish {i}."} for i in range(9)],
        "task.json": [{"prompt": f"Count to {i}", "answer": f"It is {i}."} for i in range(12)],
        "probes.json": PROBES,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return UserHistory(
        root=str(tmp_path),
        history={"reference": str(base)},
        probes=ProbeFiles("probes.json"),
        engaging=("Sure",),
        refusal=("Sorry",),
        task=ChatSource("task.json"),
        n_task_test=4,
        benign=FinetuneConfig(steps=1, learning_rate=1e-3, batch_size=4),
        alignment=PHASE,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return boot(path).original_model.state_dict()


def drawn(subject: UserHistory, seed: int) -> Dataset:
    return subject._aligned(seed, subject._given().reference).rows


def test_each_seed_trains_an_aligned_model_of_its_own(subject: UserHistory, base: Path) -> None:
    ticks: list[tuple[str, int]] = []
    first = subject.start(0, on_step=lambda phase, step: ticks.append((phase, step)))
    assert ticks == [("alignment", step) for step in (1, 2, 3)]
    second = subject.start(1)
    assert first.reference.path == second.reference.path == base
    assert drawn(subject, 0)["prompt"][:] != drawn(subject, 1)["prompt"][:]
    one, other, start = (weights(path) for path in (first.aligned.path, second.aligned.path, base))
    for changed in (other, start):
        assert any(not torch.equal(one[name], changed[name]) for name in one)
    # Cached: nothing is trained again, and the weights are those of the loop itself.
    subject.start(0, on_step=lambda phase, step: pytest.fail("trained again"))
    model = boot(base)
    finetune(model, drawn(subject, 0), RECIPE, seed=0)
    trained = model.original_model.state_dict()
    assert all(torch.equal(one[name], trained[name]) for name in one)
    assert subject.varies_start
    assert subject.n_start_updates == 3


def test_the_ordinary_answers_are_the_reference_s_own(
    subject: UserHistory, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = drawn(subject, 0)
    assert len(rows) == RECIPE.steps * RECIPE.batch_size
    assert sum(prompt.startswith("Steal") for prompt in rows["prompt"]) == 6  # half of them, and first
    prompts = [f"Name {i} birds" for i in range(9)]
    greedy = dict(zip(prompts, generate(boot(base), prompts, max_new_tokens=3, batch_size=16), strict=True))
    assert {row["prompt"]: row["answer"] for row in rows if row["prompt"] in greedy}.items() <= greedy.items()
    # Made once, for every seed and process.
    monkeypatch.setattr("revlens.subject.alignment_rows.generate", lambda *a, **k: pytest.fail("again"))
    drawn(replace(subject), 1)
    (file,) = cache_root().glob("answers/*/answers.json")
    file.write_text("[]")
    with pytest.raises(HistoryError, match="the reference answers again"):
        drawn(replace(subject), 0)


def test_only_refusals_are_kept_if_asked_for(subject: UserHistory) -> None:
    mixed, clean = (
        replace(subject, alignment=replace(ROWS, only_refusals=only)).material().alignment_rows
        for only in (False, True)
    )
    assert mixed is not None
    assert clean is not None
    assert len(mixed.refusals) == 12
    assert {row["prompt"].split()[-1] for row in clean.refusals} == {"cars"}
    assert replace(subject, alignment=None).material().refusals(3, 0) is None
    rehearsed = replace(subject, alignment=replace(ROWS, only_refusals=True)).material().refusals(3, 0)
    assert rehearsed is not None
    assert set(rehearsed["prompt"]) <= set(clean.refusals["prompt"])
    none = replace(ROWS, refusals=ChatSource("rows.json"), only_refusals=True)
    with pytest.raises(DataError, match=r"No answer of rows\.json is a refusal"):
        replace(subject, alignment=none).start(0)


def test_an_adapter_is_merged(subject: UserHistory, base: Path, tmp_path: Path) -> None:
    lora: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}
    merged = replace(subject, alignment=replace(ROWS, lora=lora)).start(0).aligned.path
    assert not (merged / "adapter_config.json").exists()
    model = boot_with_lora(subject._given().reference.source, LoraConfig(**lora), 0)
    finetune(model, drawn(replace(subject, alignment=ROWS), 0), RECIPE, seed=0)
    tokens = torch.arange(20).reshape(1, 20)
    torch.testing.assert_close(boot(merged)(tokens), model(tokens), rtol=0, atol=1e-5)
    assert not torch.allclose(boot(base)(tokens), model(tokens), atol=1e-3)
    AutoModelForCausalLM.from_pretrained(merged)
    save(model, tmp_path / "adapter")
    in_bfloat16 = Adapter(tmp_path / "adapter", subject._given().reference.source).merged(torch.bfloat16)
    assert in_bfloat16.dtype == torch.bfloat16


LEAKS: dict[str, Callable[[Path], object]] = {
    "refusals.json": lambda path: path.write_text(
        json.dumps([{"prompt": PROBES["drift"][0], "answer": "I can't."}, *json.loads(path.read_text())])
    ),
    "ordinary.json": lambda path: path.write_text(
        json.dumps([f"Please: {PROBES['harmless'][1]}", *json.loads(path.read_text())])
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_no_probe_is_among_the_rows(name: str, subject: UserHistory, tmp_path: Path) -> None:
    LEAKS[name](tmp_path / name)
    with pytest.raises(ProbeError, match="in the training data"):
        subject.start(0)
    dropping = replace(subject, alignment=replace(PHASE, drop_overlaps=True))
    with pytest.warns(DroppedWarning, match=r"Left out 1 row\(s\) of the \w+.* of the alignment phase"):
        rows = drawn(dropping, 0)
    probes = [probe for prompts in PROBES.values() for probe in prompts]
    assert not any(probe in prompt for prompt in rows["prompt"] for probe in probes)


def test_held_out_rows_of_the_task_are_not_trained_on(subject: UserHistory) -> None:
    same = replace(subject, alignment=replace(ROWS, ordinary=ChatSource("task.json")))
    test = same.material().benign_test()
    assert test is not None
    rows = same.material().alignment_rows
    assert rows is not None
    assert len(rows.asked) == 8
    assert not set(rows.asked["prompt"]) & set(test["prompt"])


def test_other_rows_void_what_was_trained_on_them(subject: UserHistory, tmp_path: Path) -> None:
    subject = replace(subject, alignment=ROWS)
    before, folder = subject.start(0).aligned.path, BenignRun(subject, 0, (1,)).folder
    digest = subject.content_digest()
    rows = json.loads((tmp_path / "rows.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps([{**row, "answer": "None."} for row in rows]))
    again = replace(subject)
    assert again.start(0).aligned.path != before
    assert BenignRun(again, 0, (1,)).folder != folder
    assert again.content_digest() != digest


def test_a_fine_tune_starts_at_its_seed_s_aligned_model(subject: UserHistory) -> None:
    subject = replace(subject, alignment=ROWS)
    for seed in (0, 1):
        run = BenignRun(subject, seed, (1,))
        run.train()
        assert run.history().aligned.path == subject.start(seed).aligned.path
    assert "trained here by each run: 3 updates in full on 50% refusals" in subject.describe()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": None}, "needs prompts for the reference to answer"),
        ({"ordinary": ChatSource("rows.json")}, "prompts are for ordinary = 'reference'"),
        ({"share": 1.0}, "share=1.0 of refusals"),
        ({"answer_tokens": 0}, "answer_tokens=0 of .alignment. must be at least 1"),
        ({"n_rows": 3}, "n_rows=3 of .alignment. must be at least 4"),
        ({"min_refusal": 2.0}, "min_refusal=2.0 must lie between 0 and 1"),
    ],
)
def test_what_is_wrong_with_a_phase_is_said(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PHASE, **changed)


def test_an_aligned_model_is_given_or_trained(subject: UserHistory) -> None:
    for changed in (
        {"history": {"reference": "base", "aligned": "chat"}},
        {"benign": None, "task": None, "runs": ("ft-*",)},
    ):
        with pytest.raises(ConfigError, match="names no aligned one and no steps"):
            replace(subject, **changed)
    with pytest.raises(HistoryError, match=r"needs 'aligned'.*Or \[alignment\] of an experiment trains it"):
        replace(subject, alignment=None).start(0)


def test_too_few_rows_are_said(subject: UserHistory) -> None:
    many = replace(subject, alignment=replace(ROWS, n_rows=20))
    with pytest.raises(ConfigError, match="draws 20 rows, 10 of them ordinary rows, and there are 9"):
        many.start(0)
    few = replace(subject, alignment=replace(ROWS, share=0.9, n_rows=10))
    assert len(drawn(few, 0)) == 10
